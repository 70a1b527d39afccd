package up

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
)

// A backup is a folder named for its time with these files. What holds secrets or votes is encrypted with a passphrase, in
// the format of age (age-encryption.org), so that it can be opened without this program.
const (
	stateArchive = "state.tar.age"
	votesArchive = "votes.dump.age"
	manifestFile = "manifest.json"
	// minPassphrase is the fewest characters of a passphrase; scrypt makes each guess at it cost a second.
	minPassphrase = 12
)

// guessWork is the logarithm of what a guess at the passphrase costs; age's own, a second of a processor.
var guessWork = 18

// manifest says what is in a backup; it is not secret.
type manifest struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	// Ledger is the sum of all nodes' accounts right before the votes were read.
	Ledger string `json:"ledger,omitempty"`
	// Files maps each file to its SHA-256.
	Files map[string]string `json:"files"`
}

// ReadPassphrase reads the first line of a file.
func ReadPassphrase(file string) (string, error) {
	if file == "" {
		return "", errors.New("PASSPHRASE_FILE is empty: must be a file with one line, which is kept apart from the backups")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading PASSPHRASE_FILE: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); len(line) < minPassphrase {
		return "", fmt.Errorf("the first line of PASSPHRASE_FILE %s has %d characters: must be %d or more", file, len(line), minPassphrase)
	}
	return line, nil
}

// Backup writes the state directory and the votes to a new folder below out. The system goes on meanwhile: the votes are
// those of one moment. An interrupted backup leaves a folder whose name ends in .partial.
func (s *System) Backup(ctx context.Context, out, passphrase string) error {
	if out == "" {
		return errors.New("OUT is empty: must be a folder, which is made if it is not there")
	}
	now := time.Now().UTC()
	folder := filepath.Join(out, now.Format("20060102T150405Z"))
	partial := folder + ".partial"
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return fmt.Errorf("making OUT: %w", err)
	}
	m := manifest{At: now, Files: map[string]string{}}
	d, err := s.newest(ctx)
	if err == nil {
		m.Version = d.Version
	}
	seal := func(name string, write func(io.Writer) error) (string, error) {
		size, sum, err := sealFile(filepath.Join(partial, name), passphrase, write)
		if err != nil {
			return "", err
		}
		m.Files[name] = sum
		return fmt.Sprintf("%s, %d KiB", name, (size+1023)>>10), nil
	}
	steps := []step{{"state", func() (string, error) {
		return seal(stateArchive, func(w io.Writer) error { return writeState(w, s.StateDir) })
	}}}
	if !s.externalPostgres() {
		steps = append(steps, step{"votes", func() (string, error) {
			if ledger, err := s.ledger(ctx); err == nil {
				m.Ledger = ledger.String()
			}
			engine, id, err := s.container(ctx, "postgres")
			if err != nil {
				return "", err
			}
			return seal(votesArchive, func(w io.Writer) error {
				return engine.Stream(ctx, nil, w, "exec", id, "pg_dump", "--format=custom", "--dbname=waggle")
			})
		}})
	}
	if d.Env[archiveEnv] != "" {
		steps = append(steps, step{"archive", func() (string, error) {
			engine, id, err := s.container(ctx, "postgres")
			if err != nil {
				return "", err
			}
			return s.baseBackup(ctx, engine, id)
		}})
	}
	steps = append(steps, step{"manifest", func() (string, error) {
		text, err := json.MarshalIndent(m, "", "  ")
		if err == nil {
			err = writeSynced(filepath.Join(partial, manifestFile), string(text)+"\n")
		}
		if err == nil {
			err = os.Rename(partial, folder)
		}
		return folder, err
	}})
	if err := s.run(steps...); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nBacked up to %s. Without the passphrase nobody can read it, you neither.\n", folder)
	if s.externalPostgres() {
		fmt.Fprintf(s.Out, "The votes are in an external Postgres, which has backups of its own.\n")
	}
	return nil
}

// sealFile encrypts what write writes, and returns the file's size and SHA-256 once it is on disk.
func sealFile(path, passphrase string, write func(io.Writer) error) (size int64, sum string, err error) {
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return 0, "", fmt.Errorf("encrypting: %w", err)
	}
	recipient.SetWorkFactor(guessWork)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, "", fmt.Errorf("writing a backup: %w", err)
	}
	defer func() { _ = file.Close() }() // what is written is on disk by then
	digest := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(file, digest), 1<<20)
	sealed, err := age.Encrypt(buffered, recipient)
	if err == nil {
		err = write(sealed)
	}
	if err == nil {
		err = sealed.Close()
	}
	if err == nil {
		err = errors.Join(buffered.Flush(), file.Sync())
	}
	if err != nil {
		return 0, "", fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	info, err := file.Stat()
	if err != nil {
		return 0, "", fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return info.Size(), hex.EncodeToString(digest.Sum(nil)), nil
}

// open is the inverse of sealFile, for the reader of a file whose content was compared with the manifest before.
func open(path, passphrase string) (io.Reader, io.Closer, error) {
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, nil, fmt.Errorf("decrypting: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a backup: %w", err)
	}
	plain, err := age.Decrypt(bufio.NewReaderSize(file, 1<<20), identity)
	if err != nil {
		return nil, nil, errors.Join(failf("Is PASSPHRASE_FILE the one it was made with?", "decrypting %s: %w", path, err), file.Close())
	}
	return plain, file, nil
}

// readManifest reads a backup's manifest and compares the named file with it.
func readManifest(from, name string) (manifest, error) {
	var m manifest
	text, err := os.ReadFile(filepath.Join(from, manifestFile))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("FROM is %q: must be a folder that make backup made: %w", from, err)
	}
	want, has := m.Files[name]
	if !has {
		return m, fmt.Errorf("the backup %s has no %s", from, name)
	}
	file, err := os.Open(filepath.Join(from, name))
	if err != nil {
		return m, fmt.Errorf("reading the backup: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	digest := sha256.New()
	if _, err := io.Copy(digest, file); err != nil {
		return m, fmt.Errorf("reading the backup: %w", err)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != want {
		return m, failf("Take another backup.", "%s is damaged: its SHA-256 is %s, the manifest says %s", filepath.Join(from, name), got, want)
	}
	return m, nil
}

// writeState archives the files of a state directory.
func writeState(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("archiving the state directory: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read
	archive := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(name, ".new") {
			return err
		}
		text, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(text)), ModTime: info.ModTime(), Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err = archive.Write(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("archiving the state directory: %w", err)
	}
	return archive.Close()
}

// RestoreState puts the state directory of a backup at dir, on this or another machine. A directory that has other
// content is left alone: it may be the newer one.
func RestoreState(dir, from, passphrase string) error {
	if _, err := readManifest(from, stateArchive); err != nil {
		return err
	}
	plain, closer, err := open(filepath.Join(from, stateArchive), passphrase)
	if err != nil {
		return err
	}
	defer closer.Close()
	next := dir + ".restored"
	if err := os.RemoveAll(next); err != nil {
		return fmt.Errorf("restoring the state: %w", err)
	}
	names, err := readState(plain, next)
	if err != nil {
		return errors.Join(fmt.Errorf("restoring the state: %w", err), os.RemoveAll(next))
	}
	if _, err := os.Stat(dir); err == nil {
		if err := sameState(dir, next, names); err != nil {
			return errors.Join(err, os.RemoveAll(next))
		}
		return os.RemoveAll(next)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("restoring the state: %w", err)
	}
	if err := os.Rename(next, dir); err != nil {
		return fmt.Errorf("restoring the state: %w", err)
	}
	return nil
}

// readState unpacks an archive of writeState, below dir and nowhere else, and returns the names of its files.
func readState(r io.Reader, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // each file in it is on disk by then
	var names []string
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg || !filepath.IsLocal(header.Name) {
			return nil, fmt.Errorf("the archive has %q, which is no file of a state directory", header.Name)
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o700); err != nil {
			return nil, err
		}
		file, err := root.OpenFile(header.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		_, err = io.CopyN(file, archive, header.Size)
		if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
			return nil, err
		}
		names = append(names, header.Name)
	}
}

// sameState says which file of the state directory differs from the backup's.
func sameState(dir, backup string, names []string) error {
	for _, name := range names {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("comparing the state: %w", err)
		}
		want, wantErr := os.ReadFile(filepath.Join(backup, name))
		if wantErr != nil {
			return fmt.Errorf("comparing the state: %w", wantErr)
		}
		if err != nil || string(have) != string(want) {
			return failf("If the backup is the right one, move the directory away and repeat this.", "%s has another %s than the backup", dir, name)
		}
	}
	return nil
}
