//go:build !unix

package main

import "errors"

func fullBacklog() (string, func(), error) {
	return "", nil, errors.New("needs a Unix socket")
}
