package vote

// problem is a refusal with its status. code is for programs. People get the message p_<code> in their language or,
// where only a program can have caused the problem, text.
type problem struct {
	status int
	code   string
	args   []string
	text   string
}

// newProblem is a problem that has a message; args fill the message's places.
func newProblem(status int, code string, args ...string) *problem {
	return &problem{status: status, code: code, args: args}
}

func (p *problem) Error() string { return p.code + ": " + p.in(english) }

// in is the problem's text in a language.
func (p *problem) in(l *language) string {
	if p.text != "" {
		return p.text
	}
	return l.text("p_"+p.code, p.args...)
}
