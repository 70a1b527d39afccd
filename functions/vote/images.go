package vote

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
)

//go:embed images
var imageFiles embed.FS

// maxImage bounds what a voter's phone has to load for one option.
const maxImage = 256 << 10

// image is the picture of an option.
type image struct {
	kind []string
	etag string
	data []byte
}

var imageKinds = map[string][]string{".svg": {"image/svg+xml"}, ".png": {"image/png"}, ".jpg": {"image/jpeg"}, ".webp": {"image/webp"}}

func readImages(files fs.FS) (map[string]image, error) {
	entries, err := fs.ReadDir(files, "images")
	if err != nil {
		return nil, fmt.Errorf("reading the images: %w", err)
	}
	images := map[string]image{}
	for _, entry := range entries {
		kind := imageKinds[path.Ext(entry.Name())]
		if kind == nil {
			continue
		}
		data, err := fs.ReadFile(files, "images/"+entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the images: %w", err)
		}
		if len(data) > maxImage {
			return nil, fmt.Errorf("functions/vote/images/%s has %d bytes: at most %d are legal", entry.Name(), len(data), maxImage)
		}
		sum := sha256.Sum256(data)
		images[entry.Name()] = image{kind: kind, etag: `"` + hex.EncodeToString(sum[:8]) + `"`, data: data}
	}
	return images, nil
}

// answerImage serves an image. Its policy keeps a script in an SVG from running, should anybody open it by itself.
func (h *handler) answerImage(v *visit, name string) {
	found, ok := h.images[name]
	if !ok {
		h.answerProblem(v, newProblem(http.StatusNotFound, "not_found"))
		return
	}
	header := v.w.Header()
	header["Cache-Control"] = []string{"public, max-age=3600"}
	header["Content-Security-Policy"] = []string{"default-src 'none'; style-src 'unsafe-inline'; sandbox"}
	header["Etag"] = []string{found.etag}
	header["Content-Type"] = found.kind
	delete(header, "Vary")
	if v.r.Header.Get("If-None-Match") == found.etag {
		v.w.WriteHeader(http.StatusNotModified)
		return
	}
	send(v.w, http.StatusOK, found.data)
}
