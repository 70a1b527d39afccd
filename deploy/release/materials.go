package release

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"waggle/deploy/docker"
	"waggle/deploy/images"
)

// programs are the Go packages that releases contain compiled.
var programs = []string{"./provider", "./worker", "./deploy", "./functions/vote", "./functions/results", "./template/go-http"}

// distributions are the images that contain packages of Debian.
var distributions = []string{images.Redis, images.Postgres}

// component is something of others in a release.
type component struct {
	name, version string
	purl          string // package URL, https://github.com/package-url/purl-spec
}

// materials is the bill of materials, SPDX 2.3 in JSON (spdx.github.io/spdx-spec/v2.3).
func materials(ctx context.Context, c Config, built images.Release, stamp images.Stamp) ([]byte, error) {
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}"}, programs...)...)
	list.Dir = c.Root
	modules, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing Go modules: %w", err)
	}
	all := goModules(string(modules))
	for _, name := range distributions {
		packages, err := debianPackages(ctx, c.Engine, built.Images[name].Reference)
		if err != nil {
			return nil, err
		}
		all = append(all, packages...)
	}
	return spdx(c.Version, built.Architecture, stamp, all)
}

// goModules reads lines of path and version; the module without a version is ours.
func goModules(lines string) []component {
	var all []component
	for line := range strings.Lines(lines) {
		if path, version, found := strings.Cut(strings.TrimSpace(line), " "); found && version != "" {
			all = append(all, component{path, version, "pkg:golang/" + path + "@" + version})
		}
	}
	return all
}

// debianPackages asks an image for what is installed in it.
func debianPackages(ctx context.Context, engine docker.Engine, reference string) ([]component, error) {
	out, err := engine.Run(ctx, "run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", reference, "-W", "-f", "${Package} ${Version} ${Architecture}\n")
	if err != nil {
		return nil, fmt.Errorf("listing the packages in %s: %w", reference, err)
	}
	var all []component
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 3 {
			all = append(all, component{fields[0], fields[1], fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", fields[0], strings.ReplaceAll(fields[1], "+", "%2B"), fields[2])})
		}
	}
	return all, nil
}

type spdxPackage struct {
	ID        string          `json:"SPDXID"`
	Name      string          `json:"name"`
	Version   string          `json:"versionInfo"`
	Download  string          `json:"downloadLocation"`
	Licence   string          `json:"licenseDeclared"`
	Concluded string          `json:"licenseConcluded"`
	Copyright string          `json:"copyrightText"`
	Analyzed  bool            `json:"filesAnalyzed"`
	Refs      []spdxReference `json:"externalRefs,omitempty"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// spdx writes the document. Each component stands once, in the order of its package URL.
func spdx(version, architecture string, stamp images.Stamp, components []component) ([]byte, error) {
	const unknown = "NOASSERTION"
	slices.SortFunc(components, func(a, b component) int { return strings.Compare(a.purl, b.purl) })
	components = slices.Compact(components)
	name := "waggle-" + version + "-linux-" + architecture
	packages := []spdxPackage{{ID: "SPDXRef-waggle", Name: "waggle", Version: version, Download: unknown, Licence: "Apache-2.0", Concluded: unknown, Copyright: unknown}}
	relations := []spdxRelation{{"SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-waggle"}}
	for i, c := range components {
		id := fmt.Sprintf("SPDXRef-%d", i+1)
		packages = append(packages, spdxPackage{ID: id, Name: c.name, Version: c.version, Download: unknown, Licence: unknown, Concluded: unknown, Copyright: unknown,
			Refs: []spdxReference{{"PACKAGE-MANAGER", "purl", c.purl}}})
		relations = append(relations, spdxRelation{"SPDXRef-waggle", "CONTAINS", id})
	}
	text, err := json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name,
		"documentNamespace": "https://spdx.org/spdxdocs/" + name + "-" + stamp.Revision,
		"creationInfo":      map[string]any{"created": stamp.Created, "creators": []string{"Tool: waggle-release"}},
		"packages":          packages, "relationships": relations,
	}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("writing the bill of materials: %w", err)
	}
	return append(text, '\n'), nil
}
