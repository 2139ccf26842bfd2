package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/callhook-go/callhook"
)

// sender posts a body, signed as Standard Webhooks says: the part that peers which
// only queue leave to their user.
type sender struct {
	urls   []string
	client *http.Client
}

func newSender(urls []string) *sender {
	// Without MaxIdleConnsPerHost net/http keeps 2 connections and dials for nearly
	// every request.
	return &sender{urls: urls, client: &http.Client{Timeout: timeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: workers, MaxIdleConns: 10 * workers}}}
}

func (s *sender) send(ctx context.Context, endpoint int, id string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, "POST", s.urls[endpoint], bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := callhook.Sign(req.Header, id, time.Now(), body, secret); err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func (s *sender) close() { s.client.CloseIdleConnections() }

func verifyStandard(r *http.Request, body []byte) error {
	return callhook.Verify(r.Header, body, secret)
}
