package settings

import (
	"errors"
	"fmt"
	"strings"
)

// tableHead begins a table of settings in a README.
const tableHead = "| setting | default | legal | meaning |"

// Tables takes the tables of settings, each below its heading, out of a README in Markdown. They are what a command
// `help` prints, so that what operators read at a prompt and in the README is one text.
func Tables(readme string) string {
	var out strings.Builder
	heading, inside := "", false
	for line := range strings.Lines(readme) {
		switch {
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimLeft(line, "# ")
		case strings.TrimSpace(line) == tableHead:
			inside = true
			fmt.Fprintf(&out, "\n%s\n", heading)
		case !strings.HasPrefix(line, "|"):
			inside = false
		}
		if inside {
			out.WriteString(line)
		}
	}
	return out.String()
}

// CompareTables reports what differs between the tables of a README and the settings of some structs. These are
// settings without a row that has their default and legal values, and rows without a setting. Tests call it.
func CompareTables(readme string, specs ...any) error {
	stale := map[string]bool{} // rows that no setting has
	for line := range strings.Lines(Tables(readme)) {
		if strings.HasPrefix(line, "| `") {
			stale[line] = true
		}
	}
	var differences []error
	for _, spec := range specs {
		for _, f := range fields(spec) {
			found := false
			for line := range stale {
				if f.isRow(line) {
					found, stale[line] = true, false
				}
			}
			if !found {
				differences = append(differences, fmt.Errorf("%s has no row with default %q and legal values %q", f.name, f.standard, f.form()))
			}
		}
	}
	for line, is := range stale {
		if is {
			differences = append(differences, fmt.Errorf("no setting has the row %s", strings.TrimSpace(line)))
		}
	}
	return errors.Join(differences...)
}

// isRow reports whether a row of a table describes the setting. What a setting without a tag may be, the row says freely.
func (f field) isRow(line string) bool {
	cells := strings.Split(strings.Trim(line, "| \n"), " | ")
	return len(cells) == 4 && cells[0] == "`"+f.name+"`" && cells[3] != "" &&
		(f.standard == "" || cells[1] == "`"+f.standard+"`") && (f.legal == "" || cells[2] == f.form())
}
