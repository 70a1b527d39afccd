package docker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ImageID returns the id of an image, "sha256:…", or "" when the engine does not have it.
func (e Engine) ImageID(ctx context.Context, reference string) (string, error) {
	id, err := e.Run(ctx, "image", "inspect", "--format", "{{.Id}}", reference)
	if err != nil && strings.Contains(strings.ToLower(err.Error()), "no such image") {
		return "", nil
	}
	return id, err
}

// HasImage tells whether the engine holds an image.
func (e Engine) HasImage(ctx context.Context, reference string) (bool, error) {
	id, err := e.ImageID(ctx, reference)
	return id != "", err
}

// CopyImages sends images with their tags to another engine, in one archive so that shared layers travel once.
func (e Engine) CopyImages(ctx context.Context, to Engine, references ...string) error {
	if len(references) == 0 {
		return nil
	}
	_, err := e.Pipe(ctx, append([]string{"save"}, references...), to, []string{"load", "--quiet"})
	if err != nil {
		return fmt.Errorf("copying %s to %s: %w", strings.Join(references, " "), to, err)
	}
	return nil
}

// BuildOptions says what to build.
type BuildOptions struct {
	// Context is the directory that is sent to the engine.
	Context string
	// Dockerfile is a path; empty means the file Dockerfile in Context.
	Dockerfile string
	// Tag is the name of the result.
	Tag string
	// BuildArgs are passed as they are; a Dockerfile that does not declare one ignores it.
	BuildArgs map[string]string
	// Labels are put on the result.
	Labels map[string]string
	// Output receives the builder's output while it runs; nil discards it.
	Output io.Writer
}

// outputLines is how much of a failed build is shown: a compiler's or a package manager's reason stands in the last lines.
const outputLines = 15

// Build builds an image and returns its id. A failure shows the last lines the builder printed.
func (e Engine) Build(ctx context.Context, options BuildOptions) (string, error) {
	args := []string{"build", "--tag", options.Tag}
	if options.Dockerfile != "" {
		args = append(args, "--file", options.Dockerfile)
	}
	for _, name := range slices.Sorted(maps.Keys(options.BuildArgs)) {
		args = append(args, "--build-arg", name+"="+options.BuildArgs[name])
	}
	for _, name := range slices.Sorted(maps.Keys(options.Labels)) {
		args = append(args, "--label", name+"="+options.Labels[name])
	}
	args = append(args, options.Context)

	cmd := e.command(ctx, args)
	var printed tail
	// One writer for both streams: exec then never calls it from two goroutines, and the order is kept.
	var output io.Writer = &printed
	if options.Output != nil {
		output = io.MultiWriter(&printed, options.Output)
	}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Run(); err != nil {
		err = e.explain(ctx, args, err, printed.String())
		if reason := classify(err, printed.String()); ctx.Err() != nil || reason != nil {
			return "", fmt.Errorf("building %s: %w", options.Tag, err)
		}
		return "", fmt.Errorf("building %s failed, last lines:\n%s", options.Tag, lastLines(printed.kept, outputLines))
	}
	id, err := e.ImageID(ctx, options.Tag)
	if err == nil && id == "" {
		err = fmt.Errorf("building %s: the engine does not have it afterwards", options.Tag)
	}
	return id, err
}

// lastLines returns the last n lines that hold anything, indented.
func lastLines(printed []byte, n int) string {
	var lines []string
	for line := range bytes.Lines(printed) {
		if text := strings.TrimRight(string(line), " \r\n"); text != "" {
			lines = append(lines, "  "+text)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
