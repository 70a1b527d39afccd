package swarm

import (
	"net/url"
	"slices"

	"waggle/provider/feed"
)

const (
	annotationCORSOrigins     = privatePrefix + "cors.origins"
	annotationCORSCredentials = privatePrefix + "cors.credentials"
)

// parseCORS reads the annotations about calls from web pages of other origins; nil if no origin is allowed.
func parseCORS(annotations map[string]string) (*feed.CORS, error) {
	credentials, err := parseBool(annotations, annotationCORSCredentials)
	if err != nil {
		return nil, err
	}
	origins := splitList(annotations[annotationCORSOrigins])
	for _, origin := range origins {
		if origin == "*" && len(origins) == 1 {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			return nil, failf(ErrInvalid, "annotation %s: %q; want origins such as https://example.org, comma separated, or *", annotationCORSOrigins, shorten(origin))
		}
	}
	switch {
	case credentials && (len(origins) == 0 || slices.Contains(origins, "*")):
		return nil, failf(ErrInvalid, "annotation %s: \"true\"; want that only with the origins listed in %s", annotationCORSCredentials, annotationCORSOrigins)
	case len(origins) == 0:
		return nil, nil
	}
	return &feed.CORS{Origins: origins, Credentials: credentials}, nil
}
