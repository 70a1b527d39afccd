package up

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/csv"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"waggle/functions/pollfile"
)

// CodesConfig is what Codes needs to know.
type CodesConfig struct {
	// Poll is the slug of a poll of mode once.
	Poll string
	// Count is how many codes to make; 1 to 1,000,000. They are added to those that the poll has.
	Count int
	// Out is the folder for the codes themselves: <slug>-codes.csv and a sheet to print, <slug>-codes.html.
	Out string
	// Ballot is the address of the ballot, for the links; empty leaves out the links.
	Ballot string
}

const maxCodes = 1_000_000

// code is a line of the table, and a card of the sheet.
type code struct{ Number, Code, Link string }

// Codes makes ballot codes. Their hashes go to functions/vote/codes, which the next `make up` ships; the codes go to Out
// and nowhere else.
func (s *System) Codes(_ context.Context, c CodesConfig) error {
	polls, _, err := s.codePolls()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(polls, func(p pollfile.Poll) bool { return p.Slug == c.Poll && p.Mode == "once" })
	if i < 0 {
		return fmt.Errorf("POLL is %q: must be a poll of mode once in functions/polls.json", c.Poll)
	}
	if c.Count < 1 || c.Count > maxCodes {
		return fmt.Errorf("COUNT is %d: must be 1 to %d", c.Count, maxCodes)
	}
	if c.Out == "" {
		return errors.New("OUT is missing: name a folder for the codes, outside of the repository")
	}
	list := filepath.Join(s.Root, "functions", "vote", "codes", c.Poll+".codes")
	old, err := os.ReadFile(list)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the hashes: %w", err)
	}
	codes, hashes := makeCodes(&polls[i], c, len(old)/pollfile.CodeHashBytes)
	if err := os.MkdirAll(c.Out, 0o700); err != nil {
		return fmt.Errorf("making OUT: %w", err)
	}
	// The codes are written first: a code that nobody has is worse than one that does not work yet.
	base := filepath.Join(c.Out, c.Poll+"-codes")
	for _, file := range []struct {
		suffix string
		write  func(io.Writer, *pollfile.Poll, []code) error
	}{{".csv", writeTable}, {".html", writeSheet}} {
		var out bytes.Buffer
		if err := file.write(&out, &polls[i], codes); err != nil {
			return fmt.Errorf("writing %s%s: %w", base, file.suffix, err)
		}
		if err := createOnly(base+file.suffix, out.Bytes()); err != nil {
			return err
		}
	}
	if err := writeSynced(list+".new", string(mergeHashes(old, hashes))); err != nil {
		return fmt.Errorf("writing the hashes: %w", err)
	}
	if err := os.Rename(list+".new", list); err != nil {
		return fmt.Errorf("writing the hashes: %w", err)
	}
	fmt.Fprintf(s.Out, "%d codes in %s.csv and %s.html; keep them safe.\nTheir hashes are in %s; make up publishes them.\n", c.Count, base, base, list)
	return nil
}

// codePolls reads the poll file, whose polls of mode once may have no codes yet.
func (s *System) codePolls() ([]pollfile.Poll, []byte, error) {
	text, err := os.ReadFile(filepath.Join(s.Root, "functions", "polls.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the polls: %w", err)
	}
	polls, err := pollfile.Parse(text)
	return polls, text, err
}

// makeCodes numbers codes from after on.
func makeCodes(p *pollfile.Poll, c CodesConfig, after int) ([]code, [][pollfile.CodeHashBytes]byte) {
	codes, hashes := make([]code, c.Count), make([][pollfile.CodeHashBytes]byte, c.Count)
	random := make([]byte, pollfile.CodeLength)
	for i := range codes {
		_, _ = rand.Read(random) // never fails: crypto/rand ends the process instead
		text := make([]byte, pollfile.CodeLength)
		for j, b := range random {
			text[j] = pollfile.CodeAlphabet[int(b)%len(pollfile.CodeAlphabet)] // 32 letters divide 256 evenly
		}
		plain := string(text)
		codes[i] = code{Number: strconv.Itoa(after + i + 1), Code: plain[:4] + "-" + plain[4:8] + "-" + plain[8:12] + "-" + plain[12:]}
		if c.Ballot != "" {
			codes[i].Link = c.Ballot + "?" + url.Values{"poll": {p.Slug}, "code": {plain}}.Encode()
		}
		hashes[i] = pollfile.CodeHash(p.ID, plain)
	}
	return codes, hashes
}

// mergeHashes sorts the old and the new hashes into one list. Equal ones, of which there are none in practice, count once.
func mergeHashes(old []byte, hashes [][pollfile.CodeHashBytes]byte) []byte {
	for chunk := range slices.Chunk(old, pollfile.CodeHashBytes) {
		hashes = append(hashes, [pollfile.CodeHashBytes]byte(chunk))
	}
	slices.SortFunc(hashes, func(a, b [pollfile.CodeHashBytes]byte) int { return bytes.Compare(a[:], b[:]) })
	hashes = slices.Compact(hashes)
	out := make([]byte, 0, len(hashes)*pollfile.CodeHashBytes)
	for i := range hashes {
		out = append(out, hashes[i][:]...)
	}
	return out
}

func writeTable(to io.Writer, _ *pollfile.Poll, codes []code) error {
	w := csv.NewWriter(to)
	if err := w.Write([]string{"number", "code", "link"}); err != nil {
		return err
	}
	for _, c := range codes {
		if err := w.Write([]string{c.Number, c.Code, c.Link}); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

var sheetTemplate = template.Must(template.New("sheet").Parse(`<!doctype html>
<html><head><meta charset="utf-8"><title>{{.Poll.Slug}}</title><style>
body{font:12pt/1.4 sans-serif;margin:0;display:grid;grid-template-columns:1fr 1fr;gap:0}
div{border:1px dashed #777;padding:8mm;break-inside:avoid;overflow-wrap:anywhere}
b{font:bold 16pt monospace}
small{font-size:8pt}
</style></head><body>
{{range .Codes}}<div><span dir="auto">{{$.Poll.Question}}</span><br>{{.Number}}<br><b>{{.Code}}</b><br><small>{{.Link}}</small></div>
{{end}}</body></html>
`))

func writeSheet(to io.Writer, p *pollfile.Poll, codes []code) error {
	return sheetTemplate.Execute(to, map[string]any{"Poll": p, "Codes": codes})
}

// createOnly refuses to replace a file: it may hold the only copy of codes that were sent.
func createOnly(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return advise(fmt.Errorf("writing codes: %w", err), "Move the file away, or name another OUT.")
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
