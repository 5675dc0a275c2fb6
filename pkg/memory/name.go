package memory

import (
	"hash/fnv"
	"strings"
	"unicode"

	"github.com/mtibben/confusables"

	"github.com/sixcast/sixcast/pkg/channel"
)

// nameHash is FNV-1a of the folded name, and 0 for no name.
func nameHash(name string) uint64 {
	if name == "" {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(channel.FoldName(name)))
	return max(h.Sum64(), 1)
}

// looks is how a name looks: names that share either of the two are easily taken for each other. They are skeletons of UTS 39, of the
// name as it stands (where I looks like l) and of the folded name (which capitals would hide), with spaces run together and without
// what is not seen.
func looks(name string) [2]string {
	name = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.Cf) {
			return -1
		}
		return r
	}, name)
	name = strings.Join(strings.Fields(name), " ")
	return [2]string{channel.FoldName(confusables.Skeleton(name)), channel.FoldName(confusables.Skeleton(channel.FoldName(name)))}
}
