// The work of protocol.md on Go's net/http and gorilla/websocket: gorilla PORT
package main

import (
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
)

type connection struct {
	socket *websocket.Conn
	lock   sync.Mutex
}

func (c *connection) send(kind int, data []byte) error {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.socket.WriteMessage(kind, data)
}

var (
	upgrader    = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	lock        sync.RWMutex
	connections = map[*connection]bool{}
	push        = []byte(`{"type":"upgrade","batch":"b1"` + strings.Repeat(" ", 369) + "}")
)

func serve(w http.ResponseWriter, r *http.Request) {
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &connection{socket: socket}
	lock.Lock()
	connections[c] = true
	lock.Unlock()
	defer func() {
		lock.Lock()
		delete(connections, c)
		lock.Unlock()
		socket.Close()
	}()
	for {
		kind, message, err := socket.ReadMessage()
		if err != nil {
			return
		}
		switch {
		case strings.HasPrefix(string(message), "S "):
			fields := strings.Fields(string(message))
			chunk, _ := strconv.Atoi(fields[1])
			left, _ := strconv.Atoi(fields[2])
			data := make([]byte, chunk)
			for left > 0 {
				if left < chunk {
					data = data[:left]
				}
				left -= len(data)
				if c.send(websocket.BinaryMessage, data) != nil {
					return
				}
			}
		case string(message) == "P":
			lock.RLock()
			for other := range connections {
				other.send(websocket.TextMessage, push)
			}
			lock.RUnlock()
		default:
			if c.send(kind, message) != nil {
				return
			}
		}
	}
}

func main() {
	runtime.GOMAXPROCS(1)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(serve)))
}
