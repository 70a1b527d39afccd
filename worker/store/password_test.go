package store_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// TestRolesChangeTheirOwnPasswords on a server that asks for them, without a superuser.
func TestRolesChangeTheirOwnPasswords(t *testing.T) {
	t.Parallel()
	db := harness.PostgresAlone(t)
	var logins []store.Login
	login := func(role, password string) string {
		return fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s sslmode=disable target_session_attrs=primary", db.Host(), db.Port(), db.Name(), role, password)
	}
	for _, role := range []string{"waggle_admin", "waggle_drain", "waggle_results"} {
		db.SQL(`ALTER ROLE ` + role + ` PASSWORD 'old'`)
		logins = append(logins, store.Login{Before: login(role, "old"), Now: login(role, "new"), Password: "new"})
	}
	db.SQL(`ALTER ROLE waggle_results SET default_transaction_read_only = on; GRANT CONNECT ON DATABASE ` + db.Name() + ` TO waggle_drain, waggle_results`)
	if err := os.WriteFile(db.SQL(`SHOW hba_file`), []byte("local all all trust\nhost all all all scram-sha-256\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	db.SQL(`SELECT pg_reload_conf()`)
	enters := func(dsn string) bool {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	}
	for late := time.Now().Add(10 * time.Second); enters(login("waggle_drain", "wrong")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the server takes any password")
		}
	}
	log := slog.New(slog.DiscardHandler)
	for _, run := range []string{"the first time", "again"} {
		if err := store.AwaitPasswords(t.Context(), logins, 10*time.Second, log); err != nil {
			t.Fatalf("%s: %v", run, err)
		}
		for i, l := range logins {
			if enters(l.Before) || !enters(l.Now) {
				t.Errorf("%s: role %d logs in with the old password: %t, with the new one: %t", run, i, enters(l.Before), enters(l.Now))
			}
		}
	}
	logins[1].Before, logins[1].Now = login("waggle_drain", "neither"), login("waggle_drain", "nor")
	if err := store.AwaitPasswords(t.Context(), logins, 2*time.Second, log); err == nil {
		t.Error("a role whose password is another one: no error")
	}
}
