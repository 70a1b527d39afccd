package vote

import "testing"

// FuzzPage: whatever poll is accepted has a page.
func FuzzPage(f *testing.F) {
	f.Add([]byte(pollFile))
	f.Add([]byte(`{"polls":[{"id":1}]}`))
	k, err := parseKeys("poll:" + keyP + "\nk1:" + keyA)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		polls, err := parsePolls(data)
		if err != nil {
			return
		}
		for i := range polls {
			if _, err := (&handler{keys: k}).newPaper(&polls[i], polls, ""); err != nil {
				t.Errorf("an accepted poll has no page: %v", err)
			}
		}
	})
}
