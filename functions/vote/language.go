package vote

import (
	"embed"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	textlanguage "golang.org/x/text/language"
)

//go:embed messages.*.json
var messageFiles embed.FS

// language is one of the interface's languages. Its texts are messages.<code>.json; a test checks that all files have
// the same keys.
type language struct {
	code, direction string
	texts           map[string]string
}

// languages are in the order of languageMatcher; the first one is for everybody else.
var languages = func() []*language {
	all := []*language{{code: "en", direction: "ltr"}, {code: "de", direction: "ltr"}, {code: "es", direction: "ltr"}, {code: "ar", direction: "rtl"}}
	for _, l := range all {
		text, err := messageFiles.ReadFile("messages." + l.code + ".json")
		if err == nil {
			err = json.Unmarshal(text, &l.texts)
		}
		if err != nil {
			panic("messages." + l.code + ".json: " + err.Error()) // part of the binary: any test finds it
		}
	}
	return all
}()

var english = languages[0]

var languageMatcher = textlanguage.NewMatcher([]textlanguage.Tag{
	textlanguage.English, textlanguage.German, textlanguage.Spanish, textlanguage.Arabic,
})

// languageOf chooses by a poll's language, if it has one, else by an Accept-Language header.
func languageOf(code, header string) *language {
	for _, l := range languages {
		if l.code == code {
			return l
		}
	}
	if header == "" {
		return english
	}
	_, i := textlanguage.MatchStrings(languageMatcher, header)
	return languages[i]
}

// text is a message with its places {0}, {1} filled in.
func (l *language) text(key string, args ...string) string {
	text := l.texts[key]
	for i, arg := range args {
		text = strings.ReplaceAll(text, "{"+strconv.Itoa(i)+"}", arg)
	}
	return text
}

// moment is a time for people: in the poll's zone, and in UTC, which is right everywhere.
func (l *language) moment(t time.Time, zone string) string {
	if location, err := time.LoadLocation(zone); zone != "" && err == nil {
		local := t.In(location)
		name, _ := local.Zone()
		if strings.ContainsAny(name, "+-") {
			name = "UTC" + name
		}
		return l.dated(local, name) + " (" + l.dated(t.UTC(), "UTC") + ")"
	}
	return l.dated(t.UTC(), "UTC")
}

func (l *language) dated(t time.Time, zone string) string {
	return strings.NewReplacer("{day}", strconv.Itoa(t.Day()), "{month}", strings.Fields(l.texts["months"])[t.Month()-1],
		"{year}", strconv.Itoa(t.Year()), "{time}", t.Format("15:04"), "{zone}", zone).Replace(l.texts["date"])
}
