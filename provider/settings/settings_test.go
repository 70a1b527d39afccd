package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sample has a setting of each kind.
type sample struct {
	Role    string        `envconfig:"test_role" default:"a" legal:"a|b|c"`
	Port    int           `envconfig:"test_port" default:"80" legal:"1 to 65535"`
	Other   int           `envconfig:"test_other" legal:"1 to 65535"`
	Size    int64         `envconfig:"test_size" default:"0" legal:"at least 0"`
	Count   uint16        `envconfig:"TEST_COUNT" default:"3" legal:"1 to 9"`
	Rate    float64       `envconfig:"test_rate" default:"1.5" legal:"0 to 10"`
	Hold    time.Duration `envconfig:"hold_timeout" default:"30s" legal:"0s to 24h"`
	Wait    time.Duration `envconfig:"test_wait" default:"1m" legal:"1s to 1h"`
	Codes   []int         `envconfig:"test_codes" default:"400,500" legal:"400 to 599"`
	Names   []string      `envconfig:"test_names"`
	Address string        `envconfig:"test_address"`
	On      bool          `envconfig:"test_on" default:"true"`
	Level   slog.Level    `envconfig:"test_level" default:"info"`

	Logger *slog.Logger
}

var standard = sample{Role: "a", Port: 80, Count: 3, Rate: 1.5, Hold: 30 * time.Second, Wait: time.Minute, Codes: []int{400, 500}, On: true}

// The environment is the process's own: these tests do not run in parallel.
func TestLoad(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want func(*sample)
	}{
		"defaults":          {nil, func(*sample) {}},
		"small letters":     {map[string]string{"test_port": "81"}, func(s *sample) { s.Port = 81 }},
		"capitals":          {map[string]string{"TEST_PORT": "82"}, func(s *sample) { s.Port = 82 }},
		"both":              {map[string]string{"TEST_PORT": "82", "test_port": "81"}, func(s *sample) { s.Port = 81 }},
		"seconds":           {map[string]string{"hold_timeout": "90", "test_wait": "90"}, func(s *sample) { s.Hold, s.Wait = 90*time.Second, 90*time.Second }},
		"durations":         {map[string]string{"hold_timeout": "1m30s", "test_wait": "1m30s"}, func(s *sample) { s.Hold, s.Wait = 90*time.Second, 90*time.Second }},
		"zero":              {map[string]string{"hold_timeout": "0"}, func(s *sample) { s.Hold = 0 }},
		"lists":             {map[string]string{"test_names": "a,b", "test_codes": "404"}, func(s *sample) { s.Names, s.Codes = []string{"a", "b"}, []int{404} }},
		"empty text":        {map[string]string{"test_role": ""}, func(s *sample) { s.Role = "" }},
		"switch and level":  {map[string]string{"test_on": "false", "test_level": "warn"}, func(s *sample) { s.On, s.Level = false, slog.LevelWarn }},
		"name in capitals":  {map[string]string{"TEST_COUNT": "4"}, func(s *sample) { s.Count = 4 }},
		"all others remain": {map[string]string{"test_size": "5"}, func(s *sample) { s.Size = 5 }},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.env {
				t.Setenv(key, value)
			}
			before := strings.Join(os.Environ(), "\n")
			var got sample
			want := standard
			test.want(&want)
			if err := Load(&got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
			if strings.Join(os.Environ(), "\n") != before {
				t.Error("the environment is not as it was")
			}
		})
	}
}

// All that is wrong is said at once, and what is wrong has its default meanwhile.
func TestLoadNamesEachMistake(t *testing.T) {
	for name, value := range map[string]string{"test_port": "x", "hold_timeout": "soon", "test_on": "perhaps", "test_level": "loud", "test_codes": "400,x", "TEST_COUNT": "-1", "test_rate": ""} {
		t.Setenv(name, value)
	}
	var got sample
	err := Load(&got)
	if err == nil || !reflect.DeepEqual(got, standard) {
		t.Fatalf("got %+v, %v", got, err)
	}
	want := `test_port is "x": must be 1 to 65535
TEST_COUNT is "-1": must be 1 to 9
test_rate is "": must be 0 to 10
hold_timeout is "soon": must be 0s to 24h, such as 1m30s or whole seconds
test_codes is "400,x": must be 400 to 599
test_on is "perhaps": must be true or false
test_level is "loud": must be debug, info, warn or error`
	if err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestCheckNamesEachIllegalValue(t *testing.T) {
	t.Parallel()
	if err := Check(standard); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	for want, change := range map[string]func(*sample){
		`test_role is "d": must be a, b or c`:      func(s *sample) { s.Role = "d" },
		`test_port is 70000: must be 1 to 65535`:   func(s *sample) { s.Port = 70000 },
		`test_port is 0: must be 1 to 65535`:       func(s *sample) { s.Port = 0 },
		`test_other is -1: must be 1 to 65535`:     func(s *sample) { s.Other = -1 },
		`test_size is -1: must be at least 0`:      func(s *sample) { s.Size = -1 },
		`TEST_COUNT is 10: must be 1 to 9`:         func(s *sample) { s.Count = 10 },
		`test_rate is 10.5: must be 0 to 10`:       func(s *sample) { s.Rate = 10.5 },
		`test_rate is NaN: must be 0 to 10`:        func(s *sample) { s.Rate, _ = strconv.ParseFloat("NaN", 64) },
		`hold_timeout is 30h: must be 0s to 24h`:   func(s *sample) { s.Hold = 30 * time.Hour },
		`hold_timeout is -1.5s: must be 0s to 24h`: func(s *sample) { s.Hold = -1500 * time.Millisecond },
		`test_wait is 0s: must be 1s to 1h`:        func(s *sample) { s.Wait = 0 },
		`test_codes is 399: must be 400 to 599`:    func(s *sample) { s.Codes = []int{399, 400} },
	} {
		s := standard
		change(&s)
		if err := Check(s); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestDefaultsLeaveLegalZeros(t *testing.T) {
	t.Parallel()
	var s sample
	Defaults(&s)
	want := standard
	want.Hold, want.Rate, want.On = 0, 0, false // each legal
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

func TestSettingsAreShownWithoutPasswords(t *testing.T) {
	t.Parallel()
	s := standard
	s.Address, s.Names, s.Wait = "http://me:hunter2@h:80/x", []string{"https://you:hunter3@h"}, 90*time.Minute
	type more struct {
		Port int    `envconfig:"test_port"`
		Last string `envconfig:"test_last" default:"z"`
	}
	all := List(s, more{1, "z"})
	want := `test_role=a
test_port=80
test_other=0
test_size=0
TEST_COUNT=3
test_rate=1.5
hold_timeout=30s
test_wait=1h30m
test_codes=400,500
test_names=https://you:xxxxx@h
test_address=http://me:xxxxx@h:80/x
test_on=true
test_level=info
test_last=z
`
	if all.String() != want {
		t.Errorf("got\n%swant\n%s", all, want)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "settings", all)
	var line struct{ Settings map[string]string }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil || len(line.Settings) != len(all) || strings.Contains(log.String(), "hunter") {
		t.Errorf("logged %s, %v", &log, err)
	}
	for _, setting := range all {
		if line.Settings[setting.Name] != setting.Value {
			t.Errorf("logged %s=%s, want %s", setting.Name, line.Settings[setting.Name], setting.Value)
		}
	}
	if err := Mistake("a", s.Address, "another"); strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v has the password", err)
	}
}

func TestSecretsAreFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadSecret(dir, "none"); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "secret none is missing: must be a file "+dir) {
		t.Errorf("missing: %v", err)
	}
	write("empty", "\r\n")
	if _, err := ReadSecret(dir, "empty"); err == nil || !strings.HasPrefix(err.Error(), "secret empty is empty: must be") {
		t.Errorf("empty: %v", err)
	}
	if _, err := ReadSecret(dir, "."); err == nil || !strings.HasPrefix(err.Error(), "secret . cannot be read: must be") {
		t.Errorf("a folder: %v", err)
	}
	write("s", " two words \r\n")
	if text, err := ReadSecret(dir, "s"); err != nil || text != " two words " {
		t.Errorf("got %q, %v", text, err)
	}
}

// While a password is exchanged for another, both are taken, and the first is used.
func TestCredentialsOfTwoPasswords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for file, text := range map[string]string{"basic-auth-user": "admin", "basic-auth-password": "new\n\n old \n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadCredentials(dir, true)
	if err != nil || got.Header() != (Credentials{User: "admin", Password: "new"}).Header() {
		t.Fatalf("%+v, %v", got, err)
	}
	for password, want := range map[string]bool{"new": true, "old": true, "": false, "new\nold": false, "older": false} {
		if got.Accepts(Credentials{User: "admin", Password: password}.Header()) != want {
			t.Errorf("password %q: accepted is %t", password, !want)
		}
		if got.Accepts(Credentials{User: "root", Password: password}.Header()) {
			t.Errorf("password %q of another user is accepted", password)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, test := range map[string]struct{ user, password, wrong string }{
		"whole":         {"admin\n", " pw \n", ""},
		"empty user":    {"\n", "pw", "secret basic-auth-user is empty"},
		"blank":         {"admin", "  ", "secret basic-auth-password is blank"},
		"colon in name": {"a:b", "pw", "secret basic-auth-user has a colon"},
	} {
		for file, text := range map[string]string{"basic-auth-user": test.user, "basic-auth-password": test.password} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ReadCredentials(dir, true)
		if test.wrong == "" && (err != nil || got.User != "admin" || got.Password != "pw" || got.Also != nil || got.Header() != "Basic YWRtaW46cHc=") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("%s: %v, want %s", name, err, test.wrong)
		}
	}
	if got, err := ReadCredentials(t.TempDir(), true); err == nil || strings.Count(err.Error(), "is missing") != 2 {
		t.Errorf("without files: %+v, %v", got, err)
	}
	if got, err := ReadCredentials("/none", false); err != nil || got.User != "" || got.Password != "" {
		t.Errorf("not demanded: %+v, %v", got, err)
	}
}

func TestPortsThatAreTaken(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	want := "port is " + strconv.Itoa(port) + ": must be a free port, but another program listens there"
	if err := CheckFree("port", "127.0.0.1", port); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CheckFree("port", "127.0.0.1", port); err != nil {
		t.Errorf("a free port: %v", err)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if status := Report(&out, Settings{{"a", "1"}}, nil); status != 0 || out.String() != "a=1\n" {
		t.Errorf("%d %q", status, &out)
	}
	out.Reset()
	if status := Report(&out, Settings{{"a", "1"}}, errors.Join(errors.New("x"), errors.New("y"))); status != 2 || out.String() != "x\ny\n" {
		t.Errorf("%d %q", status, &out)
	}
}

func TestTablesOfAReadme(t *testing.T) {
	t.Parallel()
	type small struct {
		Port int    `envconfig:"port" default:"80" legal:"1 to 9"`
		Name string `envconfig:"name"`
	}
	const head = "# One\ntext\n\n## Two\n\n| setting | default | legal | meaning |\n|---|---|---|---|\n"
	port, name := "| `port` | `80` | 1 to 9 | where |\n", "| `name` | none | text | who |\n"
	if got := Tables(head + port + "\nmore\n| x | y |\n"); got != "\nTwo\n\n| setting | default | legal | meaning |\n|---|---|---|---|\n"+port {
		t.Errorf("got %q", got)
	}
	if err := CompareTables(head+port+name, small{}); err != nil {
		t.Errorf("equal ones differ: %v", err)
	}
	for what, readme := range map[string]string{
		"no row":        head + port,
		"other default": head + strings.Replace(port, "80", "81", 1) + name,
		"other legal":   head + strings.Replace(port, "1 to 9", "1 to 8", 1) + name,
		"no meaning":    head + strings.Replace(port, "where", "", 1) + name,
		"stale row":     head + port + name + "| `old` | none | text | what |\n",
	} {
		if err := CompareTables(readme, small{}); err == nil {
			t.Errorf("%s: no difference found", what)
		}
	}
}

// FuzzDuration reads settings that are Go's durations or whole seconds; no other text is taken for either.
func FuzzDuration(f *testing.F) {
	for _, text := range []string{"60s", "60", "1m30s", "-1", "+5", "9999999999", "1e3", " 1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDuration(text)
		if seconds, intErr := strconv.ParseInt(text, 10, 32); intErr == nil {
			if err != nil || d != time.Duration(seconds)*time.Second {
				t.Errorf("%q: %s, %v; want %d seconds", text, d, err, seconds)
			}
			return
		}
		if parsed, goErr := time.ParseDuration(text); (goErr == nil) != (err == nil) || parsed != d {
			t.Errorf("%q: %s, %v; want %s, %v", text, d, err, parsed, goErr)
		}
		if err == nil {
			if again, err := time.ParseDuration(showDuration(d)); err != nil || again != d {
				t.Errorf("%s is shown as %s", d, showDuration(d))
			}
		}
	})
}
