package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// BenchmarkAnswers is what a client waits for at 500 functions of 3 replicas, from the request to the last
// byte. It leaves out the network, and what a real Swarm takes to list its objects.
func BenchmarkAnswers(b *testing.B) {
	bundle := setup(b)
	for i := range 500 {
		name := fmt.Sprintf("fn%03d", i)
		bundle.do("POST", "/system/functions", strings.Replace(fn, `"fn"`, `"`+name+`"`, 1))
		if got := bundle.do("POST", "/system/scale-function/"+name, `{"replicas":3}`); got.Code != http.StatusAccepted {
			b.Fatal(got.Code, got.Body)
		}
	}
	for name, path := range map[string]string{"list": "/system/functions", "status": "/system/function/fn250"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := bundle.do("GET", path, ""); got.Code != http.StatusOK {
					b.Fatal(got.Code, got.Body)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(time.Millisecond)/float64(b.N), "ms/"+name)
		})
	}
}
