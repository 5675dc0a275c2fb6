package input

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// describe says what the beginning of an input looks like, and what to do about it.
func describe(head []byte) string {
	text := strings.ToLower(string(bytes.TrimLeft(head, " \t\r\n\xef\xbb\xbf")))
	has := func(off int, magic string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
	const convert = ": `ffmpeg -i … -c copy -f mpegts - | ingest`"
	switch {
	case len(head) == 0:
		return "it is empty"
	case strings.HasPrefix(text, "#extm3u"):
		return "it is a playlist" + convert
	case isHTML(text):
		return "it is a web page"
	case has(4, "ftyp"):
		return "it is an MP4 file" + convert
	case has(0, "\x1a\x45\xdf\xa3"):
		return "it is a Matroska or WebM file" + convert
	case has(0, "FLV\x01"):
		return "it is an FLV file" + convert
	case has(0, "RIFF"):
		return "it is an AVI or WAV file" + convert
	case has(0, "\x00\x00\x01\xba"):
		return "it is an MPEG program stream" + convert
	case has(0, "\x1f\x8b"), has(0, "BZh"), has(0, "\xfd7zXZ"), has(0, "\x28\xb5\x2f\xfd"):
		return "it is compressed: `zcat … | ingest` or the like"
	case has(0, "\xd4\xc3\xb2\xa1"), has(0, "\xa1\xb2\xc3\xd4"), has(0, "\x0a\x0d\x0d\x0a"):
		return "it is a packet capture"
	case has(0, "\xf6\x36\x63\x42"):
		return "it is a block stream, which goes to relay"
	case utf8.Valid(head) && !bytes.ContainsFunc(head, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\n\r\t\x1b", r) }):
		return "it is text"
	}
	return "no packet was found in it"
}

func isHTML(text string) bool {
	for _, begin := range []string{"<!doctype html", "<html", "<head", "<body", "<!--", "<?xml"} {
		if strings.HasPrefix(text, begin) {
			return true
		}
	}
	return false
}
