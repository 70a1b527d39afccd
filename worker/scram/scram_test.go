package scram

import (
	"encoding/base64"
	"testing"
)

// The salt and password of RFC 7677, section 3, and what Postgres makes of them.
func TestVerifierIsWhatPostgresStores(t *testing.T) {
	t.Parallel()
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	const want = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	if got, err := withSalt("pencil", salt); err != nil || got != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}
