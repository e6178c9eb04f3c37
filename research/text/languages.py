"""The languages of Whisper, in the order of their tokens.

Source: `whisper/tokenizer.py` of openai/whisper, release 20250625. Codes are ISO 639-1 or 639-3,
but for Javanese, which is 'jw'. The last language, Cantonese, exists in large-v3 and turbo alone.
"""

from research.errors import unknown

_TABLE = """
  en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese,
  pt portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian,
  id indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay,
  cs czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian, th thai, ur urdu,
  hr croatian, bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak,
  te telugu, fa persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian,
  kn kannada, et estonian, mk macedonian, br breton, eu basque, is icelandic, hy armenian,
  ne nepali, mn mongolian, bs bosnian, kk kazakh, sq albanian, sw swahili, gl galician, mr marathi,
  pa punjabi, si sinhala, km khmer, sn shona, yo yoruba, so somali, af afrikaans, oc occitan,
  ka georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic, yi yiddish, lo lao,
  uz uzbek, fo faroese, ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese,
  sa sanskrit, lb luxembourgish, my myanmar, bo tibetan, tl tagalog, mg malagasy, as assamese,
  tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su sundanese,
  yue cantonese
"""

# {code: name}, in the order of the tokens.
LANGUAGES: dict[str, str] = dict(
  entry.strip().replace('\n', ' ').split(' ', 1) for entry in _TABLE.split(',')
)
# Other names, {name: code}.
ALIASES: dict[str, str] = dict(
  burmese='my',
  valencian='ca',
  flemish='nl',
  haitian='ht',
  letzeburgesch='lb',
  pushto='ps',
  panjabi='pa',
  moldavian='ro',
  moldovan='ro',
  sinhalese='si',
  castilian='es',
  mandarin='zh',
)
# Written without spaces between words.
UNSPACED = frozenset({'zh', 'ja', 'th', 'lo', 'my', 'yue'})


def language_code(name: str) -> str:
  """The code of a language by its code, name or other name, in any case ('Castilian' -> 'es').

  Raises:
    InputError: Whisper does not know the language.
  """
  lower = name.strip().lower()
  codes = {language: code for code, language in LANGUAGES.items()} | ALIASES
  if lower in LANGUAGES:
    return lower
  if lower in codes:
    return codes[lower]
  raise unknown('language', name, [*LANGUAGES, *codes])
