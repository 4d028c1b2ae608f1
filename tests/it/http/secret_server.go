// net/http with a shared secret in a wrapped handler and crypto/subtle: arguments are the address
// and the secret.
package main

import (
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"os"
)

func requireSecret(secret string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := r.Header.Get("X-Backend-Secret")
		if subtle.ConstantTimeCompare([]byte(sent), []byte(secret)) != 1 {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func main() {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "go %d\n", len(body))
			return
		}
		fmt.Fprintln(w, "go")
	})
	panic(http.ListenAndServe(os.Args[1], requireSecret(os.Args[2], hello)))
}
