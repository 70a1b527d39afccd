package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bootstrapRoom is what a minimal Debian takes while it is assembled, with its packages, in bytes.
const bootstrapRoom = 1 << 30

// debianSources keeps the image's packages as current as a pulled image's: the archive alone lacks security fixes.
const debianSources = `deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
`

// aptClean is what Debian's own container images do: no package archive stays in a layer.
const aptClean = `DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
`

// dpkgExcludes keeps documentation and translations, a fifth of every package, out of the layers built on the image.
const dpkgExcludes = `path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/info/*
`

// bootstrapDebian assembles a minimal Debian with this machine's certificates and imports it.
func (b *Builder) bootstrapDebian(ctx context.Context) error {
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return errors.New("debootstrap is not installed: as root, run 'apt-get install debootstrap'")
	}
	if os.Geteuid() != 0 {
		return errors.New("debootstrap needs root: run 'sudo make up' once, or make a registry reachable")
	}
	dir, err := roomyDir(bootstrapRoom)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("preparing %s: %w", dir, err)
	}
	if err := runTool(ctx, "debootstrap", "--variant=minbase", "--merged-usr", "bookworm", dir, "http://deb.debian.org/debian"); err != nil {
		return err
	}
	if err := trimDebian(dir); err != nil {
		return fmt.Errorf("trimming the new Debian: %w", err)
	}
	_, err = b.feedTar(ctx, []string{"-C", dir, "-c", "."},
		"import", "--change", `CMD ["bash"]`, "-", Debian)
	return err
}

// trimDebian drops what a container never needs and adds the sources and certificates it does.
func trimDebian(dir string) error {
	write := func(name, text string) error {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(text), 0o644)
	}
	var errs []error
	errs = append(errs,
		write("etc/apt/sources.list", debianSources),
		write("etc/apt/apt.conf.d/docker-clean", aptClean),
		write("etc/dpkg/dpkg.cfg.d/docker", dpkgExcludes),
		// No service may start while a package is installed in a build.
		write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
		os.Chmod(filepath.Join(dir, "usr/sbin/policy-rc.d"), 0o755))
	if bundle, err := os.ReadFile(hostBundle); err == nil {
		errs = append(errs, write(strings.TrimPrefix(hostBundle, "/"), string(bundle)))
	}
	for _, pattern := range []string{
		"var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/doc/*", "usr/share/man/*",
		"usr/share/locale/*", "usr/share/info/*", "etc/resolv.conf", "etc/hostname", "dev/*",
	} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, path := range found {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
