// Command endpoint plays the customer's systems for docs/getting-started.md.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/callhook-go/callhook"
)

func main() {
	http.HandleFunc("GET /lookup", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked who has", r.FormValue("phone"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"contact": {"first_name": "Ada"}}`)
	})
	http.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 5<<20))
		if err != nil {
			return
		}
		if err := callhook.Verify(r.Header, body, os.Getenv("CALLHOOK_HOOK_KEY")); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		fmt.Printf("told %s %s\n", r.URL.Path, body) // do the work once per webhook-id
	})
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", l.Addr())
	log.Fatal(http.Serve(l, nil))
}
