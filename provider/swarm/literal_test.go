package swarm

import (
	"strings"
	"testing"
	"text/template"
)

func FuzzLiteral(f *testing.F) {
	for _, text := range []string{"", "plain", "{{name}}", "{{.Node.Hostname}}", "{{", "}}", "{{{", "{{{{", "{ {{", `{{"{{"}}`, "{{/*", "{{-", "a {{- 1 -}} b", "{{`}}", "\n{{\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := template.New("").Parse(literal(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var out strings.Builder
		if err := parsed.Execute(&out, nil); err != nil || out.String() != text {
			t.Errorf("%q became %q, %v", text, out.String(), err)
		}
	})
}
