package results

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// receipt is what the look-up needs of a receipt, whose form functions/vote/receipt.go defines. Its signature cannot
// be checked here, and need not be. The answer tells what became of an entry, never what was chosen. Whoever has not
// seen the receipt cannot know the voter's pseudonym.
type receipt struct {
	poll        int32
	voter       string // in hexadecimal
	seq         int64
	incarnation string
	ms, counter int64 // the entry's id
}

// maxReceipt bounds the work on a hostile receipt.
const maxReceipt = 400

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// parseReceipt reads a receipt that somebody has pasted, with spaces and line breaks wherever they came in.
func parseReceipt(text string) (receipt, bool) {
	if len(text) > maxReceipt {
		return receipt{}, false
	}
	parts := strings.Split(strings.Join(strings.Fields(text), ""), ".")
	if len(parts) != 9 || parts[0] != "r2" {
		return receipt{}, false
	}
	poll, pollErr := strconv.ParseInt(parts[1], 10, 32)
	voter, voterErr := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	seq, seqErr := strconv.ParseInt(parts[3], 10, 64)
	ms, counter, found := strings.Cut(parts[5], "-")
	at, atErr := strconv.ParseInt(ms, 10, 64)
	n, nErr := strconv.ParseInt(counter, 10, 64)
	const maxID = 1<<48 - 1 // see the order key in worker/store
	if errors.Join(pollErr, voterErr, seqErr, atErr, nErr) != nil || !found || len(voter) != 16 || !uuidPattern.MatchString(parts[4]) ||
		poll < 1 || seq < 0 || at < 0 || at > maxID || n < 0 || n > maxID {
		return receipt{}, false
	}
	return receipt{int32(poll), hex.EncodeToString(voter), seq, parts[4], at, n}, true
}

// fate is what became of a vote.
type fate struct {
	State string `json:"state"`
	// Node and Since say which node cannot be reached, and since when.
	Node  string     `json:"node,omitempty"`
	Since *time.Time `json:"since,omitempty"`
}

const (
	fateCounted     = "counted"
	fateReplaced    = "replaced"
	fateWaiting     = "waiting"
	fateUnreachable = "unreachable"
	fateRejected    = "rejected"
	fateLost        = "lost"
)

// lookupTimeout bounds one look-up; maxLookups bounds those that run or wait. More are told to come back.
const (
	lookupTimeout = 2 * time.Second
	maxLookups    = 64
)

var errBusy = errors.New("too many receipts are being looked up")

// receiptStore looks receipts up. It is safe for concurrent use.
type receiptStore struct {
	pool  *pgxpool.Pool
	slots chan struct{}
}

func newReceiptStore(pool *pgxpool.Pool) *receiptStore {
	return &receiptStore{pool: pool, slots: make(chan struct{}, maxLookups)}
}

func (s *receiptStore) close() { s.pool.Close() }

// find asks the function result_receipt of the tally (worker/store).
func (s *receiptStore) find(ctx context.Context, r receipt, keepsFirst bool) (f fate, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return f, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var node *string
	err = s.pool.QueryRow(ctx, `SELECT state, node, since FROM result_receipt($1, $2::text::uuid, $3, $4, $5::text::uuid, $6, $7)`,
		r.poll, r.voter, r.seq, keepsFirst, r.incarnation, r.ms, r.counter).Scan(&f.State, &node, &f.Since)
	if err != nil {
		return f, fmt.Errorf("looking a receipt up: %w", err)
	}
	if node != nil {
		f.Node = *node
	}
	return f, nil
}

// answerReceipt says what became of a receipt's vote, in a page with the form for the next one, or in JSON.
func (h *handler) answerReceipt(w http.ResponseWriter, r *http.Request, q question) {
	parsed, ok := parseReceipt(*q.receipt)
	p := h.pollOf(parsed.poll)
	var bad *problem
	var found fate
	switch {
	case *q.receipt == "":
	case !ok:
		bad = &problem{http.StatusBadRequest, "malformed", "receipt_malformed"}
	case p == nil:
		bad = &problem{http.StatusNotFound, "unknown_poll", "receipt_unknown_poll"}
	default:
		var err error
		if found, err = h.receipts.find(r.Context(), parsed, p.KeepsFirst()); err != nil {
			if !errors.Is(err, errBusy) && r.Context().Err() == nil {
				h.logger.Warn("a receipt could not be looked up", "error", err)
			}
			w.Header().Set("Retry-After", "3")
			bad = &problem{http.StatusServiceUnavailable, "busy", "receipt_busy"}
		}
	}
	if q.form.format != formatHTML {
		answerFate(w, q, p, found, bad)
		return
	}
	page := struct {
		L                                 *language
		Style                             any
		Question, Answer, Colour, Receipt string
	}{L: q.form.lang, Style: style, Receipt: *q.receipt}
	status := http.StatusOK
	switch {
	case bad != nil:
		page.Answer, page.Colour, status = q.form.lang.Text(bad.message), "warn", bad.status
	case *q.receipt != "":
		page.Question = p.Question
		page.Answer, page.Colour = found.sentence(q.form.lang, p, time.Now())
	}
	if len(page.Receipt) > maxReceipt {
		page.Receipt = ""
	}
	writeTemplate(w, status, "receipt", page)
}

// sentence is the fate for people, and the colour of its panel.
func (f fate) sentence(l *language, p *poll, now time.Time) (text, colour string) {
	switch f.State {
	case fateCounted:
		return l.Text("receipt_counted"), "good"
	case fateReplaced:
		if p.KeepsFirst() {
			return l.Text("receipt_replaced_first"), "good"
		}
		return l.Text("receipt_replaced_last"), "good"
	case fateUnreachable:
		return l.Text("receipt_unreachable", f.Node, l.Text("since", l.shortDate(*f.Since, now), l.age(now.Sub(*f.Since)))), "warn"
	case fateLost, fateRejected:
		return l.Text("receipt_" + f.State), "bad"
	}
	return l.Text("receipt_waiting"), "warn"
}

func answerFate(w http.ResponseWriter, q question, p *poll, f fate, bad *problem) {
	if bad == nil && p == nil {
		bad = &problem{http.StatusBadRequest, "malformed", "receipt_malformed"}
	}
	q.form.format = formatJSON
	if bad != nil {
		bad.message = languages[0].Text(bad.message)
		bad.answer(w, q.form)
		return
	}
	body, err := json.Marshal(struct {
		Poll string `json:"poll"`
		fate
	}{p.Slug, f})
	if err != nil {
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentTypes[formatJSON])
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

func (h *handler) pollOf(id int32) *poll {
	for i := range h.polls {
		if h.polls[i].ID == id {
			return &h.polls[i]
		}
	}
	return nil
}
