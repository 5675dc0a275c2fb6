package ts

import "github.com/asticode/go-astits"

// StreamKind is what an elementary stream is for.
type StreamKind uint8

const (
	KindData StreamKind = iota // whatever is none of the others
	KindVideo
	KindAudio
	KindTeletext
	KindSubtitle
	KindSCTE35 // splice information
)

func (k StreamKind) String() string {
	return [...]string{"data", "video", "audio", "teletext", "subtitle", "scte35"}[min(k, KindSCTE35)]
}

// Codec names a coding as ffmpeg does: "h264", "hevc", "mpeg2video", "mp2",
// "aac", "ac3" …; empty if it is not known.
type Codec string

// Stream is one elementary stream of a programme.
type Stream struct {
	PID      PID
	Type     uint8 // stream_type of the PMT (13818-1 table 2-34)
	Kind     StreamKind
	Codec    Codec
	Language string // ISO 639-2, empty if not given
	CA       []PID  // ECM PIDs of its CA descriptors
}

// registrations maps format_identifiers of private streams (13818-1 §2.6.8,
// https://smpte-ra.org) to what they are.
var registrations = map[string]Stream{
	"AC-3": {Kind: KindAudio, Codec: "ac3"},
	"EAC3": {Kind: KindAudio, Codec: "eac3"},
	"AC-4": {Kind: KindAudio, Codec: "ac4"},
	"BSSD": {Kind: KindAudio, Codec: "s302m"},
	"DTS1": {Kind: KindAudio, Codec: "dts"},
	"DTS2": {Kind: KindAudio, Codec: "dts"},
	"DTS3": {Kind: KindAudio, Codec: "dts"},
	"Opus": {Kind: KindAudio, Codec: "opus"},
	"HEVC": {Kind: KindVideo, Codec: "hevc"},
	"AV01": {Kind: KindVideo, Codec: "av1"},
	"VC-1": {Kind: KindVideo, Codec: "vc1"},
	"drac": {Kind: KindVideo, Codec: "dirac"},
	"CUEI": {Kind: KindSCTE35},
}

// streamTypes maps stream_type (13818-1 table 2-34, and what ATSC, SCTE and
// others took of the private range) to what it is.
var streamTypes = map[uint8]Stream{
	0x01: {Kind: KindVideo, Codec: "mpeg1video"},
	0x02: {Kind: KindVideo, Codec: "mpeg2video"},
	0x03: {Kind: KindAudio, Codec: "mp2"},
	0x04: {Kind: KindAudio, Codec: "mp2"},
	0x0f: {Kind: KindAudio, Codec: "aac"},
	0x10: {Kind: KindVideo, Codec: "mpeg4"},
	0x11: {Kind: KindAudio, Codec: "aac_latm"},
	0x1b: {Kind: KindVideo, Codec: "h264"},
	0x1c: {Kind: KindAudio, Codec: "aac"},
	0x21: {Kind: KindVideo, Codec: "jpeg2000"},
	0x24: {Kind: KindVideo, Codec: "hevc"},
	0x2d: {Kind: KindAudio, Codec: "mpegh_3d_audio"},
	0x2e: {Kind: KindAudio, Codec: "mpegh_3d_audio"},
	0x32: {Kind: KindVideo, Codec: "jpegxs"},
	0x33: {Kind: KindVideo, Codec: "vvc"},
	0x34: {Kind: KindVideo, Codec: "evc"},
	0x42: {Kind: KindVideo, Codec: "cavs"},
	0x80: {Kind: KindVideo, Codec: "mpeg2video"}, // DigiCipher II
	0x81: {Kind: KindAudio, Codec: "ac3"},
	0x82: {Kind: KindSubtitle}, // SCTE 27
	0x83: {Kind: KindAudio, Codec: "truehd"},
	0x84: {Kind: KindAudio, Codec: "eac3"},
	0x86: {Kind: KindSCTE35},
	0x87: {Kind: KindAudio, Codec: "eac3"},
	0x8a: {Kind: KindAudio, Codec: "dts"},
	0xd1: {Kind: KindVideo, Codec: "dirac"},
	0xd2: {Kind: KindVideo, Codec: "avs2"},
	0xd4: {Kind: KindVideo, Codec: "avs3"},
	0xea: {Kind: KindVideo, Codec: "vc1"},
}

// blurayTypes are those that mean something else in a programme registered as
// HDMV (Blu-ray and AVCHD).
var blurayTypes = map[uint8]Stream{
	0x80: {Kind: KindAudio, Codec: "pcm_bluray"},
	0x82: {Kind: KindAudio, Codec: "dts"},
	0x85: {Kind: KindAudio, Codec: "dts"},
	0x86: {Kind: KindAudio, Codec: "dts"},
	0x90: {Kind: KindSubtitle, Codec: "hdmv_pgs_subtitle"},
	0xa1: {Kind: KindAudio, Codec: "eac3"},
}

const typePrivatePES = 0x06

// describe tells what an elementary stream is from its type and descriptors.
func describe(e *astits.PMTElementaryStream, hdmv bool) Stream {
	s := streamTypes[uint8(e.StreamType)]
	if hdmv {
		if b, ok := blurayTypes[uint8(e.StreamType)]; ok {
			s = b
		}
	}
	for _, d := range e.ElementaryStreamDescriptors {
		if e.StreamType == typePrivatePES && s.Kind == KindData {
			s.Kind, s.Codec = describePrivate(d)
		}
		if s.Language == "" {
			s.Language = language(d)
		}
	}
	s.PID, s.Type = PID(e.ElementaryPID), uint8(e.StreamType)
	s.CA = caPIDs(e.ElementaryStreamDescriptors)
	return s
}

// describePrivate tells what a private PES stream is from one of its
// descriptors (EN 300 468 table 12); KindData if this one does not say.
func describePrivate(d *astits.Descriptor) (StreamKind, Codec) {
	switch d.Tag {
	case astits.DescriptorTagRegistration:
		if d.Registration != nil {
			r := registrations[formatIdentifier(d.Registration.FormatIdentifier)]
			return r.Kind, r.Codec
		}
	case astits.DescriptorTagAC3:
		return KindAudio, "ac3"
	case astits.DescriptorTagEnhancedAC3:
		return KindAudio, "eac3"
	case 0x7b:
		return KindAudio, "dts"
	case 0x7c:
		return KindAudio, "aac"
	case astits.DescriptorTagTeletext, astits.DescriptorTagVBITeletext:
		return KindTeletext, "dvb_teletext"
	case astits.DescriptorTagSubtitling:
		return KindSubtitle, "dvb_subtitle"
	case astits.DescriptorTagExtension:
		if d.Extension == nil {
			break
		}
		switch d.Extension.Tag {
		case 0x0e:
			return KindAudio, "dts"
		case 0x15:
			return KindAudio, "ac4"
		case 0x20:
			return KindSubtitle, "ttml"
		}
	}
	return KindData, ""
}

func language(d *astits.Descriptor) string {
	var code []byte
	switch {
	case d.ISO639LanguageAndAudioType != nil:
		code = d.ISO639LanguageAndAudioType.Language
	case d.Teletext != nil && len(d.Teletext.Items) > 0:
		code = d.Teletext.Items[0].Language
	case d.Subtitling != nil && len(d.Subtitling.Items) > 0:
		code = d.Subtitling.Items[0].Language
	}
	for i, c := range code {
		if i == 3 {
			code = code[:3]
			break
		}
		if c|0x20 < 'a' || c|0x20 > 'z' {
			return ""
		}
	}
	return string(code)
}

func formatIdentifier(v uint32) string {
	return string([]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func hasRegistration(ds []*astits.Descriptor, id string) bool {
	for _, d := range ds {
		if d.Registration != nil && formatIdentifier(d.Registration.FormatIdentifier) == id {
			return true
		}
	}
	return false
}

// caPIDs are the PIDs of the CA descriptors among ds, which carry ECMs.
func caPIDs(ds []*astits.Descriptor) (pids []PID) {
	for _, d := range ds {
		if d.Unknown == nil {
			continue
		}
		if pid, ok := caPID(d.Tag, d.Unknown.Content); ok {
			pids = append(pids, pid)
		}
	}
	return pids
}

// caPID is the PID of a CA descriptor (13818-1 §2.6.16).
func caPID(tag uint8, content []byte) (PID, bool) {
	if tag != 0x09 || len(content) < 4 {
		return 0, false
	}
	return PID(content[2]&0x1f)<<8 | PID(content[3]), true
}
