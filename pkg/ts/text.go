package ts

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeText turns a DVB SI string (EN 300 468 annex A) into UTF-8. The first
// byte selects the character table; without one it is ISO 6937, or UTF-8 where
// the bytes are that by accident of a careless multiplexer. Characters of
// tables that are not known here (Korean, Chinese, compressed) become U+FFFD.
// Control and emphasis codes are dropped, line breaks become spaces.
func decodeText(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	var s string
	switch c := b[0]; {
	case c >= 0x20:
		if hasHigh(b) && utf8.Valid(b) {
			s = string(b)
		} else {
			s = decode6937(b)
		}
	case c <= 0x0b:
		s = decode8859(int(c)+4, b[1:])
	case c == 0x10 && len(b) >= 3:
		s = decode8859(int(b[1])<<8|int(b[2]), b[3:])
	case c == 0x11:
		u := make([]uint16, 0, len(b)/2)
		for i := 1; i+1 < len(b); i += 2 {
			u = append(u, uint16(b[i])<<8|uint16(b[i+1]))
		}
		s = string(utf16.Decode(u))
	case c == 0x15:
		s = strings.ToValidUTF8(string(b[1:]), "\ufffd")
	default:
		s = decode8859(0, b[1:])
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == 0x8a || r == 0xe08a || r == '\n':
			return ' '
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0xe080 && r < 0xe0a0:
			return -1
		}
		return r
	}, s))
}

func hasHigh(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

// decode8859 decodes part n of ISO 8859; of a part that is not known only ASCII survives.
func decode8859(n int, b []byte) string {
	table := []rune(latin[n])
	var s strings.Builder
	for _, c := range b {
		switch {
		case c < 0xa0 || n == 1:
			s.WriteRune(rune(c))
		case len(table) == 0:
			s.WriteRune(utf8.RuneError)
		default:
			s.WriteRune(table[c-0xa0])
		}
	}
	return s.String()
}

// decode6937 decodes ISO/IEC 6937 with the euro sign of EN 300 468. Bytes
// 0xc1 … 0xcf are diacritics that come before their letter.
func decode6937(b []byte) string {
	table := []rune(latin6937)
	var s strings.Builder
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case c < 0xa0:
			s.WriteRune(rune(c))
		case c > 0xc0 && c < 0xd0 && i+1 < len(b):
			i++
			s.WriteString(accented(c, rune(b[i])))
		default:
			s.WriteRune(table[c-0xa0])
		}
	}
	return s.String()
}

func accented(mark byte, letter rune) string {
	if letter >= 0x7f {
		return "\ufffd"
	}
	d := diacritics[mark-0xc0]
	if i := strings.IndexRune(d.letters, letter); i >= 0 {
		return string([]rune(d.composed)[i])
	}
	if d.combining == 0 {
		return string(letter)
	}
	return string(letter) + string(d.combining)
}

// diacritics by byte − 0xc0. The letters are ASCII, so that an index into them
// counts the runes of composed as well.
var diacritics = [16]struct {
	combining         rune
	letters, composed string
}{
	0x1: {0x300, "aeinouwyAEINOUWY", "àèìǹòùẁỳÀÈÌǸÒÙẀỲ"},
	0x2: {0x301, "acegiklmnoprsuwyzACEGIKLMNOPRSUWYZ", "áćéǵíḱĺḿńóṕŕśúẃýźÁĆÉǴÍḰĹḾŃÓṔŔŚÚẂÝŹ"},
	0x3: {0x302, "aceghijosuwyzACEGHIJOSUWYZ", "âĉêĝĥîĵôŝûŵŷẑÂĈÊĜĤÎĴÔŜÛŴŶẐ"},
	0x4: {0x303, "aeinouvyAEINOUVY", "ãẽĩñõũṽỹÃẼĨÑÕŨṼỸ"},
	0x5: {0x304, "aegiouyAEGIOUY", "āēḡīōūȳĀĒḠĪŌŪȲ"},
	0x6: {0x306, "aegiouAEGIOU", "ăĕğĭŏŭĂĔĞĬŎŬ"},
	0x7: {0x307, "abcdefghmnoprstwxyzABCDEFGHIMNOPRSTWXYZ", "ȧḃċḋėḟġḣṁṅȯṗṙṡṫẇẋẏżȦḂĊḊĖḞĠḢİṀṄȮṖṘṠṪẆẊẎŻ"},
	0x8: {0x308, "aehiotuwxyAEHIOUWXY", "äëḧïöẗüẅẍÿÄËḦÏÖÜẄẌŸ"},
	0x9: {0x308, "aeiouyAEIOUY", "äëïöüÿÄËÏÖÜŸ"},
	0xa: {0x30a, "auwyAU", "åůẘẙÅŮ"},
	0xb: {0x327, "cdeghklnrstCDEGHKLNRST", "çḑȩģḩķļņŗşţÇḐȨĢḨĶĻŅŖŞŢ"},
	0xc: {0x332, "", ""},
	0xd: {0x30b, "ouOU", "őűŐŰ"},
	0xe: {0x328, "aeiouAEIOU", "ąęįǫųĄĘĮǪŲ"},
	0xf: {0x30c, "acdeghijklnorstuzACDEGHIKLNORSTUZ", "ǎčďěǧȟǐǰǩľňǒřšťǔžǍČĎĚǦȞǏǨĽŇǑŘŠŤǓŽ"},
}

// latin6937 holds 0xa0 … 0xff of ISO/IEC 6937.
const latin6937 = "\u00a0¡¢£€¥\ufffd§¤‘“«←↑→↓" +
	"°±²³×µ¶·÷’”»¼½¾¿" +
	"\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd" +
	"―¹®©™♪¬¦\ufffd\ufffd\ufffd\ufffd⅛⅜⅝⅞" +
	"ΩÆÐªĦ\ufffdĲĿŁØŒºÞŦŊŉ" +
	"ĸæđðħıĳŀłøœßþŧŋ\u00ad"

// latin holds 0xa0 … 0xff of the parts of ISO 8859 (part 1 is Unicode's own).
var latin = map[int]string{
	2:  "\u00a0Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u00adŽŻ°ą˛ł´ľśˇ¸šşťź˝žżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
	3:  "\u00a0Ħ˘£¤\ufffdĤ§¨İŞĞĴ\u00ad\ufffdŻ°ħ²³´µĥ·¸ışğĵ½\ufffdżÀÁÂ\ufffdÄĊĈÇÈÉÊËÌÍÎÏ\ufffdÑÒÓÔĠÖ×ĜÙÚÛÜŬŜßàáâ\ufffdäċĉçèéêëìíîï\ufffdñòóôġö÷ĝùúûüŭŝ˙",
	4:  "\u00a0ĄĸŖ¤ĨĻ§¨ŠĒĢŦ\u00adŽ¯°ą˛ŗ´ĩļˇ¸šēģŧŊžŋĀÁÂÃÄÅÆĮČÉĘËĖÍÎĪĐŅŌĶÔÕÖ×ØŲÚÛÜŨŪßāáâãäåæįčéęëėíîīđņōķôõö÷øųúûüũū˙",
	5:  "\u00a0ЁЂЃЄЅІЇЈЉЊЋЌ\u00adЎЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя№ёђѓєѕіїјљњћќ§ўџ",
	6:  "\u00a0\ufffd\ufffd\ufffd¤\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd،\u00ad\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd؛\ufffd\ufffd\ufffd؟\ufffdءآأؤإئابةتثجحخدذرزسشصضطظعغ\ufffd\ufffd\ufffd\ufffd\ufffdـفقكلمنهوىي\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd",
	7:  "\u00a0‘’£€₯¦§¨©ͺ«¬\u00ad\ufffd―°±²³΄΅Ά·ΈΉΊ»Ό½ΎΏΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ\ufffdΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ\ufffd",
	8:  "\u00a0\ufffd¢£¤¥¦§¨©×«¬\u00ad®¯°±²³´µ¶·¸¹÷»¼½¾\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd‗אבגדהוזחטיךכלםמןנסעףפץצקרשת\ufffd\ufffd\u200e\u200f\ufffd",
	9:  "\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ",
	10: "\u00a0ĄĒĢĪĨĶ§ĻĐŠŦŽ\u00adŪŊ°ąēģīĩķ·ļđšŧž―ūŋĀÁÂÃÄÅÆĮČÉĘËĖÍÎÏÐŅŌÓÔÕÖŨØŲÚÛÜÝÞßāáâãäåæįčéęëėíîïðņōóôõöũøųúûüýþĸ",
	11: "\u00a0กขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรฤลฦวศษสหฬอฮฯะ\u0e31าำ\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e3a\ufffd\ufffd\ufffd\ufffd฿เแโใไๅๆ\u0e47\u0e48\u0e49\u0e4a\u0e4b\u0e4c\u0e4d\u0e4e๏๐๑๒๓๔๕๖๗๘๙๚๛\ufffd\ufffd\ufffd\ufffd",
	13: "\u00a0”¢£¤„¦§Ø©Ŗ«¬\u00ad®Æ°±²³“µ¶·ø¹ŗ»¼½¾æĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž’",
	14: "\u00a0Ḃḃ£ĊċḊ§Ẁ©ẂḋỲ\u00ad®ŸḞḟĠġṀṁ¶ṖẁṗẃṠỳẄẅṡÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏŴÑÒÓÔÕÖṪØÙÚÛÜÝŶßàáâãäåæçèéêëìíîïŵñòóôõöṫøùúûüýŷÿ",
	15: "\u00a0¡¢£€¥Š§š©ª«¬\u00ad®¯°±²³Žµ¶·ž¹º»ŒœŸ¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
	16: "\u00a0ĄąŁ€„Š§š©Ș«Ź\u00adźŻ°±ČłŽ”¶·žčș»ŒœŸżÀÁÂĂÄĆÆÇÈÉÊËÌÍÎÏĐŃÒÓÔŐÖŚŰÙÚÛÜĘȚßàáâăäćæçèéêëìíîïđńòóôőöśűùúûüęțÿ",
}
