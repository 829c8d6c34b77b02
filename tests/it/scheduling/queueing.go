// client URL GUEST CALLS: asks for the metrics of a guest, a hundred calls at once, by net/http as it is. Each
// has to be answered without an error.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
)

const atOnce = 100

var methods = []string{"CPUMetrics", "DiskMetrics", "NicMetrics"}

func call(url, guest string, number int) error {
	body, err := json.Marshal(map[string]interface{}{
		"method": "Libvirt." + methods[number%len(methods)],
		"params": []interface{}{map[string]interface{}{
			"guest": map[string]interface{}{
				"id":    guest,
				"disks": []interface{}{map[string]interface{}{"device": "vda"}},
				"nics":  []interface{}{map[string]interface{}{"mac": os.Args[4]}},
			},
		}},
		"id": number,
	})
	if err != nil {
		return err
	}
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Error interface{} `json:"error"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("status %d: %v", response.StatusCode, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("%v", answer.Error)
	}
	return nil
}

func main() {
	calls, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	failures := make(chan error, calls)
	for begun := 0; begun < calls; begun += atOnce {
		var round sync.WaitGroup
		for number := begun; number < begun+atOnce; number++ {
			round.Add(1)
			go func(number int) {
				defer round.Done()
				if err := call(os.Args[1], os.Args[2], number); err != nil {
					failures <- err
				}
			}(number)
		}
		round.Wait()
	}
	if len(failures) > 0 {
		fmt.Fprintf(os.Stderr, "%d of %d failed, the first: %v\n", len(failures), calls, <-failures)
		os.Exit(1)
	}
	fmt.Printf("%d answered\n", calls)
}
