// Makes, in the folder that is its argument, a CA of each kind of key with a gateway's and an
// acceptor's certificate below it.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func write(path, kind string, der []byte) {
	file := must(os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600))
	if err := pem.Encode(file, &pem.Block{Type: kind, Bytes: der}); err != nil {
		panic(err)
	}
	if err := file.Close(); err != nil {
		panic(err)
	}
}

func main() {
	kinds := map[string]func() crypto.Signer{
		"rsa-2048": func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) },
		"p-256":    func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) },
		"p-384":    func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) },
		"ed25519":  func() crypto.Signer { _, key, err := ed25519.GenerateKey(rand.Reader); return must(key, err) },
	}
	for kind, make := range kinds {
		folder := filepath.Join(os.Args[1], kind)
		if err := os.Mkdir(folder, 0o700); err != nil {
			panic(err)
		}
		begin := time.Now().Add(-time.Minute)
		root := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root of Go"},
			NotBefore: begin, NotAfter: begin.Add(24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		rootKey := make()
		write(filepath.Join(folder, "root.pem"), "CERTIFICATE",
			must(x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)))
		for number, name := range []string{"edge", "legacy"} {
			leaf := &x509.Certificate{
				SerialNumber: big.NewInt(int64(number) + 2), Subject: pkix.Name{CommonName: name},
				DNSNames: []string{name + ".corp.test"}, NotBefore: begin, NotAfter: begin.Add(time.Hour),
				KeyUsage:    x509.KeyUsageDigitalSignature,
				ExtKeyUsage: []x509.ExtKeyUsage{[]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}[number]},
			}
			key := make()
			write(filepath.Join(folder, name+".pem"), "CERTIFICATE",
				must(x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)))
			write(filepath.Join(folder, name+".key"), "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
		}
	}
}
