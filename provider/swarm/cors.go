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
func parseCORS(annotations given) *feed.CORS {
	credentials := annotations.boolean(annotationCORSCredentials, false)
	origins := splitList(annotations.values[annotationCORSOrigins])
	for _, origin := range origins {
		if origin == "*" && len(origins) == 1 {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			annotations.illegal(annotationCORSOrigins, origin, "origins such as https://example.org, comma separated, or *")
			return nil
		}
	}
	if credentials && (len(origins) == 0 || slices.Contains(origins, "*")) {
		annotations.illegal(annotationCORSCredentials, "true", "false, unless %s lists the origins", annotationCORSOrigins)
		return nil
	}
	if len(origins) == 0 {
		return nil
	}
	return &feed.CORS{Origins: origins, Credentials: credentials}
}
