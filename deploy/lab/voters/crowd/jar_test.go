package crowd

import (
	"net/http"
	"strings"
	"testing"
)

func TestJar(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		lines []string
		want  string
	}{
		"empty":                           {nil, ""},
		"one":                             {[]string{"a=1; Path=/; HttpOnly"}, "a=1"},
		"the later value replaces":        {[]string{"a=1", "b=2", "a=3"}, "b=2; a=3"},
		"a name that begins like one":     {[]string{"ab=1", "a=2"}, "ab=1; a=2"},
		"a cookie is taken back":          {[]string{"a=1", "b=2", "a=; Max-Age=0"}, "b=2"},
		"no more than four":               {[]string{"a=1", "b=1", "c=1", "d=1", "e=1"}, "a=1; b=1; c=1; d=1"},
		"too long":                        {[]string{"a=" + strings.Repeat("x", jarBytes+1)}, ""},
		"nonsense is passed over":         {[]string{"", "=", "a"}, ""},
		"a __Host- name like any other":   {[]string{"__Host-waggle=v1.x.1; Secure; Path=/"}, "__Host-waggle=v1.x.1"},
		"a value with an equals sign":     {[]string{"a=b=c"}, "a=b=c"},
		"a line break cannot get through": {[]string{"a=1\r\nX: y"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j jar
			j.take(http.Header{"Set-Cookie": test.lines})
			if got := j.header(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestACopiedJarKeepsWhatItHad(t *testing.T) {
	t.Parallel()
	var j jar
	j.take(http.Header{"Set-Cookie": {"a=1", "b=1", "c=1"}})
	old := j
	j.take(http.Header{"Set-Cookie": {"a=2"}})
	j.take(http.Header{"Set-Cookie": {"d=2"}})
	if old.header() != "a=1; b=1; c=1" {
		t.Errorf("the copy is now %q, %q", old.header(), old.pairs)
	}
	if j.header() != "b=1; c=1; a=2; d=2" {
		t.Errorf("the jar is %q", j.header())
	}
}
