package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/guide"
)

// nowWidth is how much of what is on is shown in a table, in characters.
const nowWidth = 40

// PrintChannels writes a table for people.
func PrintChannels(w io.Writer, all []guide.Channel) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tLANGUAGE\tCATEGORY\tRATE\tPEERS\tNOW\tKEY")
	for i := range all {
		c := &all[i]
		v := &c.Descriptor.Values
		name := catalog.Plain(v.Name)
		if len(c.LookAlikes) > 0 {
			name += " (!)"
		}
		rate := ""
		if v.BitRate > 0 {
			rate = v.BitRate.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", name, catalog.Plain(v.Language), catalog.Plain(v.Category), rate,
			c.Seeders+c.Leechers, short(catalog.Plain(v.Now)), c.Descriptor.ID)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range all {
		if len(all[i].LookAlikes) > 0 {
			_, err := fmt.Fprintln(w, "(!) another channel has a name that looks the same: tell them apart by their keys")
			return err
		}
	}
	return nil
}

func short(s string) string {
	if r := []rune(s); len(r) > nowWidth {
		return string(r[:nowWidth-1]) + "…"
	}
	return s
}

// PrintChannelLines writes a line of JSON for each.
func PrintChannelLines(w io.Writer, all []guide.Channel) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range all {
		if err := e.Encode(all[i].Entry()); err != nil {
			return err
		}
	}
	return nil
}
