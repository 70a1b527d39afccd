package vote

import (
	"crypto/hmac"
	"net/http"
)

// standing is a voter's vote in a poll as far as this browser knows: by the receipt that it has as a cookie.
type standing struct {
	chosen  *option // nil: it knows of none
	receipt string
	// pending: the vote may be stored, but nobody said so. In a poll whose first vote counts it must not be replaced.
	pending bool
}

// standingOf finds the vote of voter, a pseudonym, or with an empty voter the browser's own, whoever that is.
func (h *handler) standingOf(v *visit, voter string) standing {
	if v.pending != "" {
		found, _ := h.standingBy(v, voter, v.pending)
		return found
	}
	var found standing
	v.cookies.receipts(v.r, v.paper.poll.ID, func(text string) (enough bool) {
		found, enough = h.standingBy(v, voter, text)
		return enough
	})
	return found
}

// standingBy is what one receipt says.
func (h *handler) standingBy(v *visit, voter, text string) (standing, bool) {
	p := v.paper.poll
	r, s, ok := h.keys.readReceipt(text)
	if !ok || r.poll != p.ID || voter != "" && r.voter != voter {
		return standing{}, false
	}
	for i := range p.Options {
		tag := s.appendTag(make([]byte, 0, 2*tagBytes), v.token.voter, p.ID, p.Options[i].ID, r.seq)
		if hmac.Equal(tag, []byte(r.tag)) {
			return standing{chosen: &p.Options[i], receipt: text, pending: r.entry == ""}, true
		}
	}
	return standing{}, false
}

// identity names who signed in, apart from the subjects of other providers.
func (s *sso) identity(subject string) string { return "sso:" + s.Issuer + "\n" + subject }

// identify says who votes. In the modes last and first that is the browser, by its cookie; in once a ballot code; in sso
// the subject of a token. The prefixes keep identities of different kinds apart: a cookie's is a UUID.
func (h *handler) identify(v *visit, b ballot) (string, *problem) {
	switch p := v.paper.poll; p.Mode {
	case modeOnce:
		code, ok := normalCode(b.code)
		if b.code == "" {
			return "", newProblem(http.StatusForbidden, "no_code")
		}
		if !ok || !h.codes[p.Slug].has(p.ID, code) {
			return "", newProblem(http.StatusForbidden, "bad_code")
		}
		return "code:" + code, nil
	case modeSSO:
		subject, problem := v.paper.login.subject(v)
		return p.SSO.identity(subject), problem
	}
	return v.token.voter, nil
}
