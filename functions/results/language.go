package results

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/feature/plural"
	textlanguage "golang.org/x/text/language"
	"golang.org/x/text/message"
	"golang.org/x/text/number"
)

//go:embed messages.*.json
var messageFiles embed.FS

// language is one of the tongues that the pages speak. Its texts are messages.<code>.json; English has every key, and
// stands in for what another lacks.
type language struct {
	Code, Direction string
	tag             textlanguage.Tag
	texts           map[string]string
	printer         *message.Printer
}

// languages are what we speak; the first one is for everybody else. Numbers and times are in the same digits everywhere,
// so that they can be compared with the JSON and the CSV.
var languages = func() []*language {
	all := []*language{
		{Code: "en", Direction: "ltr", tag: textlanguage.English},
		{Code: "de", Direction: "ltr", tag: textlanguage.German},
		{Code: "es", Direction: "ltr", tag: textlanguage.Spanish},
		{Code: "ar", Direction: "rtl", tag: textlanguage.MustParse("ar-u-nu-latn")},
	}
	for _, l := range all {
		text, err := messageFiles.ReadFile(path.Join(".", "messages."+l.Code+".json"))
		if err == nil {
			err = json.Unmarshal(text, &l.texts)
		}
		if err != nil {
			panic("messages." + l.Code + ".json: " + err.Error()) // part of the binary: a test finds it
		}
		l.printer = message.NewPrinter(l.tag)
	}
	return all
}()

var languageMatcher = func() textlanguage.Matcher {
	tags := make([]textlanguage.Tag, len(languages))
	for i, l := range languages {
		tags[i] = l.tag
	}
	return textlanguage.NewMatcher(tags)
}()

// languageOf chooses by a code such as de, if it is one of ours, else by an Accept-Language header.
func languageOf(code, header string) *language {
	for _, l := range languages {
		if l.Code == code {
			return l
		}
	}
	// Item by item: the library gives a whole header up for one language that it does not know.
	type wish struct {
		tag    textlanguage.Tag
		weight float32
	}
	var wishes []wish
	for item := range strings.SplitSeq(header, ",") {
		if tags, weights, err := textlanguage.ParseAcceptLanguage(item); err == nil && len(tags) == 1 {
			wishes = append(wishes, wish{tags[0], weights[0]})
		}
	}
	slices.SortStableFunc(wishes, func(a, b wish) int { return cmp.Compare(b.weight, a.weight) })
	tags := make([]textlanguage.Tag, len(wishes))
	for i, w := range wishes {
		tags[i] = w.tag
	}
	_, i, _ := languageMatcher.Match(tags...)
	return languages[i]
}

// Text is a message with its places {0}, {1} … filled in.
func (l *language) Text(key string, args ...any) string {
	return filled(l.raw(key), args...)
}

// Plural is a message in the form that goes with n, which fills {0}; args fill {1} …
func (l *language) Plural(key string, n int64, args ...any) string {
	return filled(l.pluralRaw(key, n), append([]any{l.Number(n)}, args...)...)
}

func (l *language) pluralRaw(key string, n int64) string {
	form := [...]string{plural.Other: "other", plural.Zero: "zero", plural.One: "one", plural.Two: "two", plural.Few: "few",
		plural.Many: "many"}[plural.Cardinal.MatchPlural(l.tag, int(n), 0, 0, 0, 0)]
	if text, ok := l.texts[key+"."+form]; ok {
		return text
	}
	return l.raw(key + ".other")
}

func (l *language) raw(key string) string {
	if text, ok := l.texts[key]; ok {
		return text
	}
	if text, ok := languages[0].texts[key]; ok {
		return text
	}
	return key
}

func filled(text string, args ...any) string {
	for i, arg := range args {
		text = strings.ReplaceAll(text, "{"+strconv.Itoa(i)+"}", fmt.Sprint(arg))
	}
	return text
}

// Number writes n with the language's separators.
func (l *language) Number(n int64) string { return l.printer.Sprint(number.Decimal(n)) }

// Share is an option's part of the total. What is there is never written as nothing, nor nearly all as all.
func (l *language) Share(votes, total int64) string {
	percent := 0.0
	if total > 0 {
		percent = 100 * float64(votes) / float64(total)
	}
	switch {
	case votes > 0 && percent < 0.1:
		return l.raw("below")
	case votes < total && percent > 99.9:
		return l.raw("above")
	}
	return l.Text("percent", l.printer.Sprint(number.Decimal(percent, number.Scale(1))))
}

// Date is a moment in full, to the minute. It is given in UTC, which is right everywhere, and in a zone such as
// Europe/Berlin, if there is one.
func (l *language) Date(t time.Time, zone string) string {
	utc := l.dated(t.UTC(), "15:04", "UTC")
	location, err := time.LoadLocation(zone)
	if zone == "" || err != nil {
		return utc
	}
	local := t.In(location)
	name, _ := local.Zone()
	if strings.ContainsAny(name, "+-") {
		name = "UTC" + name
	}
	return l.dated(local, "15:04", name) + " (" + utc + ")"
}

// Moment is a moment in full, to the second.
func (l *language) Moment(t time.Time) string { return l.dated(t.UTC(), "15:04:05", "UTC") }

func (l *language) dated(t time.Time, clock, zone string) string {
	return strings.NewReplacer("{day}", strconv.Itoa(t.Day()), "{month}", strings.Fields(l.raw("months"))[t.Month()-1],
		"{year}", strconv.Itoa(t.Year()), "{time}", t.Format(clock), "{zone}", zone).Replace(l.raw("date"))
}

// seen is a moment in the past as its age and its date: "26 h ago, Sat 23:33 UTC".
func (l *language) seen(t, now time.Time) string {
	return l.Text("seen", l.age(now.Sub(t)), l.shortDate(t, now))
}

// shortDate is a moment of this week by its weekday, an older one in full.
func (l *language) shortDate(t, now time.Time) string {
	if now.Sub(t) >= 6*24*time.Hour {
		return l.Date(t, "")
	}
	return strings.NewReplacer("{weekday}", strings.Fields(l.raw("weekdays"))[t.UTC().Weekday()],
		"{time}", t.UTC().Format("15:04")).Replace(l.raw("short_date"))
}

func (l *language) age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return l.Text("age_s", int64(d.Seconds()))
	case d < 2*time.Hour:
		return l.Text("age_min", int64(d.Minutes()))
	case d < 72*time.Hour:
		return l.Text("age_h", int64(d.Hours()))
	}
	return l.Plural("age_d", int64(d.Hours()/24))
}

// reason is a reason as half a sentence; zone is that of the poll, if it is of one.
func (l *language) reason(r reason, now time.Time, zone string) string {
	text := l.raw("reason_" + r.Code)
	if _, plain := languages[0].texts["reason_"+r.Code]; !plain {
		text = l.pluralRaw("reason_"+r.Code, r.N)
	}
	when := func(t *time.Time) string {
		switch {
		case t == nil:
			return ""
		case r.Until != nil:
			return l.Moment(*t)
		case t.After(now):
			return l.Date(*t, zone)
		}
		return l.Text("since", l.shortDate(*t, now), l.age(now.Sub(*t)))
	}
	if r.Closed {
		text += l.raw("reason_closed")
	}
	return strings.NewReplacer("{node}", r.Node, "{check}", r.Check, "{n}", l.Number(r.N), "{since}", when(r.Since), "{until}", when(r.Until)).Replace(text)
}

// State is a stream's state for people.
func (l *language) State(state string) string { return l.Text("state_" + state) }
