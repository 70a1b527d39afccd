package function

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// A test that fails here stops the build of the image.
func TestHandleRepeatsWhatItIsTold(t *testing.T) {
	reply := httptest.NewRecorder()
	Handle(reply, httptest.NewRequest("POST", "/", strings.NewReader("bee")))
	if reply.Code != 200 || reply.Body.String() != "Hello! You said: bee\n" {
		t.Errorf("reply = %d %q", reply.Code, reply.Body)
	}
}
