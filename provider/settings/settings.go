// Package settings reads the settings of a program from its environment, checks them and shows them.
//
// In: a struct whose fields carry what there is to know of a setting, as tags: its name (envconfig), its default, its
// legal values (legal). Out: the struct filled, and every mistake in one form of words: "hold_timeout is 30h: must be 0s
// to 24h". A package that has settings declares them in its Config; the program's config.go loads it. Passwords are no
// settings: they are files, read by [ReadSecret].
//
// The provider and the worker both use it. It stands below the one that had it first, and imports nothing of ours, so
// that the other depends on none of that program's insides.
//
// A tag legal is "LOW to HIGH" or "at least LOW" for numbers and durations. For lists of them it bounds each element.
// For a choice of words it is "a|b|c". A setting without a default may be left out, so its zero value is legal as
// well.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// field is one setting in a struct.
type field struct {
	name     string // as an operator writes it
	standard string // its default; "" is none
	legal    string
	tag      reflect.StructTag
	value    reflect.Value // settable if the struct came by pointer
}

// fields lists the settings of a struct, or of the struct that a pointer points to, in the order of declaration.
func fields(spec any) []field {
	value := reflect.Indirect(reflect.ValueOf(spec))
	var all []field
	for i := range value.NumField() {
		tag := value.Type().Field(i).Tag
		if name := tag.Get("envconfig"); name != "" {
			all = append(all, field{name: name, standard: tag.Get("default"), legal: tag.Get("legal"), tag: tag, value: value.Field(i)})
		}
	}
	return all
}

// Load fills the struct that spec points to from the environment, where a name may be written in capitals as well.
// A variable that cannot be read is a mistake, named as [Mistake] does; its field gets the default. It joins all mistakes.
// Whether values are legal is not its business: see [Check]. It must not run beside anything that uses the environment.
func Load(spec any) error {
	var mistakes []error
	for _, f := range fields(spec) {
		if err := f.read(); err != nil {
			mistakes = append(mistakes, err)
			f.reset()
		}
	}
	return errors.Join(mistakes...)
}

// Defaults gives the settings that are zero their defaults, in the struct that spec points to. Those for which zero is
// legal keep it. Code that makes a Config by hand thus names only what it wants otherwise.
func Defaults(spec any) {
	for _, f := range fields(spec) {
		if f.value.IsZero() && f.standard != "" && f.value.Kind() != reflect.Bool && !f.allowsZero() {
			f.reset()
		}
	}
}

// read takes the value from the environment or, if it is not there, the default.
func (f field) read() error {
	// Envconfig looks for names in capitals only; those of OpenFaaS are in small letters.
	capitals := strings.ToUpper(f.name)
	if value, set := os.LookupEnv(f.name); set && f.name != capitals {
		before, was := os.LookupEnv(capitals)
		if err := os.Setenv(capitals, value); err != nil {
			return fmt.Errorf("reading %s: %w", f.name, err)
		}
		defer func() {
			if was {
				_ = os.Setenv(capitals, before) // as it was a moment ago
			} else {
				_ = os.Unsetenv(capitals)
			}
		}()
	}
	err := f.process(f.tag)
	if parse := (*envconfig.ParseError)(nil); errors.As(err, &parse) {
		if f.value.Type() == reflect.TypeFor[time.Duration]() {
			return Mistake(f.name, parse.Value, "%s, such as 1m30s or whole seconds", f.form())
		}
		return Mistake(f.name, parse.Value, "%s", f.form())
	}
	return err
}

// reset gives the field its default.
func (f field) reset() {
	// A name that no environment can have leaves envconfig nothing but the default.
	if err := f.process(reflect.StructTag(fmt.Sprintf(`envconfig:"=%s" default:%q`, f.name, f.standard))); err != nil {
		panic(fmt.Sprintf("settings: the default of %s: %v", f.name, err))
	}
}

// process lets envconfig read this one field, so that a mistake in it does not hide those in others.
func (f field) process(tag reflect.StructTag) error {
	typ := f.value.Type()
	if typ == reflect.TypeFor[time.Duration]() {
		typ = reflect.TypeFor[duration]()
	}
	one := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Value", Type: typ, Tag: tag}}))
	if err := envconfig.Process("", one.Interface()); err != nil {
		return err
	}
	f.value.Set(one.Elem().Field(0).Convert(f.value.Type()))
	return nil
}

// duration reads one of Go's, such as 1m30s, or whole seconds, as OpenFaaS has them.
type duration time.Duration

// Decode implements envconfig.Decoder.
func (d *duration) Decode(text string) error {
	parsed, err := parseDuration(text)
	*d = duration(parsed)
	return err
}

// Setting is one setting as it is in effect.
type Setting struct{ Name, Value string }

// Settings are those of one role.
type Settings []Setting

// List gives the settings of several structs. Of a name that several have, the first is the one in effect.
func List(specs ...any) Settings {
	var all Settings
	seen := map[string]bool{}
	for _, spec := range specs {
		for _, f := range fields(spec) {
			if !seen[f.name] {
				all = append(all, Setting{f.name, show(f.value.Interface())})
			}
			seen[f.name] = true
		}
	}
	return all
}

// LogValue shows them in a log line, each as an attribute.
func (s Settings) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, setting := range s {
		attrs = append(attrs, slog.String(setting.Name, setting.Value))
	}
	return slog.GroupValue(attrs...)
}

// String has a line name=value for each, as a file for `docker run --env-file` would.
func (s Settings) String() string {
	var text strings.Builder
	for _, setting := range s {
		fmt.Fprintf(&text, "%s=%s\n", setting.Name, setting.Value)
	}
	return text.String()
}

// show writes a value as an operator would, without the password that an address may contain.
func show(value any) string {
	switch v := value.(type) {
	case time.Duration:
		return showDuration(v)
	case string:
		if address, err := url.Parse(v); err == nil && address.User != nil {
			return address.Redacted()
		}
		return v
	case slog.Level:
		return strings.ToLower(v.String())
	}
	if list := reflect.ValueOf(value); list.Kind() == reflect.Slice {
		var parts []string
		for i := range list.Len() {
			parts = append(parts, show(list.Index(i).Interface()))
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(value)
}

// showDuration leaves out the zeros that Go puts behind whole hours and minutes.
func showDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
