package daemon

import (
	"fmt"
	"io"
	"os"
)

// maxSmall is how many bytes a file with certificates or keys may have: thousands of authorities.
const maxSmall = 1 << 20

// readSmall reads a regular file of at most maxSmall bytes. Anything else, which might not end, is an error.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSmall+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSmall {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSmall)
	}
	return text, nil
}
