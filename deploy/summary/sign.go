package summary

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// document is a file with a summary. The signature is Ed25519 (RFC 8032) over context followed by the summary's JSON
// without insignificant white space. So only the file's indentation may change.
type document struct {
	Summary   json.RawMessage `json:"summary"`
	PublicKey string          `json:"public_key"`
	Signature string          `json:"signature"`
}

// context keeps the signature from being taken for one of anything else.
const context = "waggle summary v1\n"

// NewKey makes a private key: PKCS #8 in PEM, as openssl reads it.
func NewKey() (string, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", fmt.Errorf("making the key for summaries: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", fmt.Errorf("encoding the key for summaries: %w", err)
	}
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), nil
}

func readKey(text string) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("the key for summaries is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key for summaries: %w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key for summaries is a %T: it must be of Ed25519", key)
	}
	return private, nil
}

// PublicKey is the public half of a private key, as people compare and publish it: base64 of its 32 bytes.
func PublicKey(private string) (string, error) {
	key, err := readKey(private)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)), nil // it always is one
}

// Sign makes a file of a summary.
func Sign(s Summary, private string) ([]byte, error) {
	key, err := readKey(private)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the summary: %w", err)
	}
	public, err := PublicKey(private)
	if err != nil {
		return nil, err
	}
	file, err := json.MarshalIndent(document{text, public, base64.StdEncoding.EncodeToString(ed25519.Sign(key, append([]byte(context), text...)))}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the summary: %w", err)
	}
	return append(file, '\n'), nil
}

// ErrForged means that a file was edited after it was signed, or signed with another key.
var ErrForged = errors.New("the signature does not fit: the file was edited, or another key signed it")

// Open reads a file that the owner of a public key signed. The key in the file itself proves nothing and is not used.
func Open(file []byte, public string) (Summary, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(public))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return Summary{}, fmt.Errorf("the public key %q is none: it must be 32 bytes in base64", public)
	}
	var d document
	if err := json.Unmarshal(file, &d); err != nil {
		return Summary{}, fmt.Errorf("reading the file: %w", err)
	}
	signature, err := base64.StdEncoding.DecodeString(d.Signature)
	if err != nil {
		return Summary{}, fmt.Errorf("reading the signature: %w", err)
	}
	var text bytes.Buffer
	text.WriteString(context)
	if err := json.Compact(&text, d.Summary); err != nil {
		return Summary{}, fmt.Errorf("reading the summary: %w", err)
	}
	if !ed25519.Verify(key, text.Bytes(), signature) {
		return Summary{}, ErrForged
	}
	var s Summary
	if err := json.Unmarshal(d.Summary, &s); err != nil {
		return Summary{}, fmt.Errorf("reading the summary: %w", err)
	}
	return s, nil
}
