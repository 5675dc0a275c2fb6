package node

import (
	"testing"
	"time"
)

func TestCompanyIsToldOnceItHasSettled(t *testing.T) {
	var c Company
	start := time.Date(2026, 11, 22, 20, 15, 0, 0, time.UTC)
	for _, s := range []struct {
		at                int // seconds
		parents, children int
		want              string
	}{
		{0, 0, 0, ""},
		{1, 1, 0, ""},
		{9, 1, 0, ""}, // it has been named
		{10, 3, 0, ""},
		{11, 7, 2, ""},
		{13, 8, 3, ""},
		{14, 8, 3, "blocks come from 8 peers, and go to 3"},
		{50, 7, 4, ""},
		{60, 7, 6, "blocks come from 7 peers, and go to 6"},
		{70, 1, 0, ""},
		{74, 1, 0, ""}, // not so soon again
		{93, 1, 0, "blocks come from 1 peer"},
		{94, 0, 0, ""},
		{124, 1, 0, ""},
		{130, 1, 0, ""},
	} {
		var r Stats
		r.Parents, r.Children = s.parents, s.children
		if got := c.Note(start.Add(time.Duration(s.at)*time.Second), r); got != s.want {
			t.Errorf("at %d s: %q, want %q", s.at, got, s.want)
		}
	}
	if c.Many() {
		t.Error("one parent is many")
	}
}
