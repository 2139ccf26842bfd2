//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// fullBacklog is a port whose listener accepts nothing and has no room left, so that
// connecting to it hangs.
func fullBacklog() (url string, end func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return "", nil, err
	}
	var waiting []net.Conn
	end = func() {
		for _, c := range waiting {
			c.Close()
		}
		syscall.Close(fd)
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", nil, err
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return "", nil, err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return "", nil, err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return "http://" + addr + "/", end, nil
		}
		waiting = append(waiting, c)
	}
	return "", nil, errors.New("the backlog does not fill up")
}
