package images

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// licence is the SPDX name of the repository's.
const licence = "Apache-2.0"

// Stamp says of which sources an image was made. It follows from the sources: whoever builds the same ones gets the
// same stamp. A commit that does not touch an image's sources leaves the image as it is.
type Stamp struct {
	// Version is the operator's, or the newest tag with the distance from it as `git describe` writes it, or "dev".
	Version string
	// Revision is the last commit that changed the sources, with "-dirty" behind it if they differ from it, or "unknown".
	Revision string
	// Created is when that commit was made, as RFC 3339 in UTC; "" if it is unknown.
	Created string
	// Source is where the repository is found; "" if it is unknown.
	Source string
}

// Labels are those that the Open Container Initiative defines (image-spec, annotations.md).
func (s Stamp) Labels() map[string]string {
	labels := map[string]string{"version": s.Version, "revision": s.Revision, "created": s.Created, "source": s.Source, "licenses": licence}
	named := map[string]string{}
	for name, value := range labels {
		if value != "" {
			named["org.opencontainers.image."+name] = value
		}
	}
	return named
}

// args are the build arguments by which a Dockerfile stamps its program.
func (s Stamp) args(others map[string]string) map[string]string {
	all := maps.Clone(others)
	all["VERSION"], all["REVISION"] = s.Version, s.Revision
	return all
}

// ReadStamp asks git about the files and folders of the repository at root, "." being all of it. Sources that came
// without git have the stamp "dev", "unknown". A version other than "" is the operator's.
func ReadStamp(ctx context.Context, root, version string, sources ...string) (Stamp, error) {
	stamp := Stamp{Version: version, Revision: "unknown"}
	if version == "" {
		stamp.Version = "dev"
	}
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			err = fmt.Errorf("asking git %s: %w: %s", args[0], err, strings.TrimSpace(string(exit.Stderr)))
		}
		return strings.TrimSpace(string(out)), err
	}
	if top, err := git("rev-parse", "--show-prefix"); err != nil || top != "" {
		return stamp, ctx.Err() // no git, or the repository of somebody else around these sources
	}
	last, err := git(append([]string{"log", "-1", "--format=%H %ct", "--"}, sources...)...)
	if err != nil {
		return Stamp{}, err
	}
	commit, seconds, committed := strings.Cut(last, " ")
	if !committed {
		return stamp, nil
	}
	changes, err := git(append([]string{"status", "--porcelain", "--"}, sources...)...)
	if err != nil {
		return Stamp{}, err
	}
	stamp.Revision = commit
	if changes != "" {
		stamp.Revision += "-dirty"
	}
	if tagged, err := git("describe", "--tags", "--match", "v[0-9]*", commit); err == nil && version == "" {
		stamp.Version = strings.TrimPrefix(tagged, "v")
	}
	var at int64
	if _, err := fmt.Sscan(seconds, &at); err != nil {
		return Stamp{}, fmt.Errorf("reading the time %q of commit %s: %w", seconds, commit, err)
	}
	stamp.Created = time.Unix(at, 0).UTC().Format(time.RFC3339)
	if remote, err := git("config", "remote.origin.url"); err == nil {
		stamp.Source = sourceURL(remote)
	}
	return stamp, nil
}

var scpAddress = regexp.MustCompile(`^(?:[\w.-]+@)?([\w.-]+):([\w.-][\w./-]*)$`)

// sourceURL is the web address of a git remote, the same for each way to reach it, and without credentials. "" means
// a remote that only this machine knows.
func sourceURL(remote string) string {
	if ssh := scpAddress.FindStringSubmatch(remote); ssh != nil {
		remote = "https://" + ssh[1] + "/" + ssh[2]
	}
	address, err := url.Parse(remote)
	if err != nil || address.Hostname() == "" || address.Scheme == "file" {
		return ""
	}
	return "https://" + address.Hostname() + "/" + strings.TrimSuffix(strings.Trim(address.Path, "/"), ".git")
}

var copied = regexp.MustCompile(`(?m)^COPY ([^-\n].*) \S+$`)

// Sources are the files and folders of the repository at root that an image is made of.
func Sources(root, image string) ([]string, error) { return recipes[image].sources(root) }

// sources are the files and folders of the repository that an image is made of. They are a context of its own, or
// what its Dockerfile copies out of the whole.
func (r recipe) sources(root string) ([]string, error) {
	if r.dockerfile == "" {
		return []string{r.context}, nil
	}
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(r.dockerfile)))
	if err != nil {
		return nil, fmt.Errorf("reading a Dockerfile: %w", err)
	}
	all := []string{r.dockerfile}
	for _, line := range copied.FindAllStringSubmatch(string(text), -1) {
		for _, source := range strings.Fields(line[1]) {
			all = append(all, path.Join(r.context, source))
		}
	}
	return all, nil
}
