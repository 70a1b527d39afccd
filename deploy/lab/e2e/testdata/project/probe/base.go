package function

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"time"
)

// base tries what handlers expect of the image that they run in, and names what is missing.
func base(w http.ResponseWriter, _ *http.Request) {
	zone, errZone := time.LoadLocation("America/Lima")
	if errZone == nil && zone.String() != "America/Lima" {
		errZone = fmt.Errorf("the zone is %s", zone)
	}
	var errLocal error
	if got := time.Date(2026, 1, 1, 0, 0, 0, 0, time.Local).Format("-0700"); got != "+0100" {
		errLocal = fmt.Errorf("TZ is %q, and local time %s", os.Getenv("TZ"), got)
	}
	file, errTemp := os.CreateTemp("", "probe")
	if errTemp == nil {
		_, errWrite := file.WriteString("x")
		errTemp = errors.Join(errWrite, file.Close(), os.Remove(file.Name()))
	}
	_, errUser := user.LookupId(strconv.Itoa(os.Getuid()))
	roots, errRoots := x509.SystemCertPool()
	if errRoots == nil && roots.Equal(x509.NewCertPool()) {
		errRoots = errors.New("no certificate of an authority")
	}
	if err := errors.Join(errZone, errLocal, errTemp, errUser, errRoots); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "whole")
}
