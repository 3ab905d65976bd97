"""Checks of kind ``language``: short answers in twenty languages."""

import pytest

from prefeval.records import PrefevalError
from prefeval.suites import checks, languages

SHORT = {
    "ar": ["صباح الخير يا صديقي"],
    "de": ["Guten Morgen!", "Heute scheint die Sonne.", "Ja, natürlich.", "Rot, blau und gelb."],
    "el": ["Καλημέρα"],
    "en": ["Good morning!", "Yes, of course.", "The answer is 42.", "Red, blue and green"],
    "es": ["¡Buenos días!", "Hoy hace sol.", "Sí, por supuesto.", "El gato duerme en el sofá."],
    "fa": ["صبح بخیر دوست من"],
    "fr": ["Bonjour !", "Il fait beau aujourd'hui.", "Oui, bien sûr.", "Rouge, bleu, vert"],
    "he": ["בוקר טוב"],
    "hi": ["सुप्रभात, आप कैसे हैं?"],
    "it": ["Buongiorno!", "Oggi c'è il sole.", "Sì, certo.", "Il gatto dorme sul divano."],
    "ja": ["おはよう", "今日は天気がいいです。"],
    "ko": ["좋은 아침"],
    "nl": ["Goedemorgen!", "Ja, natuurlijk.", "De kat slaapt op de bank."],
    "pl": ["Dzień dobry!", "Kot śpi na kanapie."],
    "pt": ["Bom dia!", "Hoje está sol.", "Sim, claro.", "O gato dorme no sofá."],
    "ru": ["Доброе утро!", "Сегодня светит солнце."],
    "sv": ["God morgon!", "Katten sover på soffan."],
    "th": ["สวัสดี"],
    "tr": ["Günaydın!", "Kedi kanepede uyuyor."],
    "uk": ["Доброго ранку!", "Сьогодні світить сонце."],
    "zh": ["早上好！", "今天天气很好。"],
}
LONG = {
    "da": "Jeg bor i et lille hus ved havet, og hver morgen går jeg en tur med min hund.",
    "de": "Ich wohne in einem kleinen Haus am Meer, und jeden Morgen gehe ich mit dem Hund hinaus.",
    "en": "I live in a small house by the sea, and every morning I go for a walk with my dog.",
    "es": "Vivo en una casa pequeña junto al mar, y cada mañana salgo a pasear con mi perro.",
    "fr": "J'habite une petite maison au bord de la mer, et chaque matin je promène mon chien.",
    "it": "Abito in una piccola casa vicino al mare, e ogni mattina esco con il mio cane.",
    "nl": "Ik woon in een klein huis aan zee, en elke ochtend ga ik wandelen met mijn hond.",
    "no": "Jeg bor i et lite hus ved sjøen, og hver morgen går jeg en tur med hunden min.",
    "pl": "Mieszkam w małym domu nad morzem i każdego ranka chodzę na spacer z psem.",
    "pt": "Moro numa casa pequena à beira-mar, e todas as manhãs passeio com o meu cão.",
    "ru": "Я живу в маленьком доме у моря и каждое утро гуляю с собакой.",
    "sv": "Jag bor i ett litet hus vid havet, och varje morgon går jag ut med min hund.",
    "uk": "Я живу в маленькому будинку біля моря і щоранку гуляю із собакою.",
}


def passes(code, text, *, loose=False):
    return checks.run_check({"kind": "language", "code": code, "loose": loose}, text)


def test_sentences_are_told_apart_strictly():
    for code, text in LONG.items():
        assert [c for c in LONG if passes(c, text)] == [code]


def test_a_few_words_pass_loosely_and_hardly_anything_passes_falsely():
    """Kin on two words ("Bom dia!", "God morgon!") are what the loose reading is for."""
    asked = [(code, text) for code, texts in SHORT.items() for text in texts]
    strict = sum(passes(code, text) for code, text in asked)
    false = [
        (other, text)
        for code, text in asked
        for other in SHORT
        if other != code and passes(other, text, loose=True)
    ]
    assert all(passes(code, text, loose=True) for code, text in asked)
    assert strict >= 0.9 * len(asked)
    assert len(false) <= 0.01 * len(asked) * len(SHORT)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("ja", "東京", False),  # might as well be Chinese; loosely it is Japanese
        ("zh", "我喜欢用 Python 写程序，因为它简单。", True),
        ("ru", "Dobroye utro! Segodnya svetit solntse.", False),
        ("de", "Hier ist der Code:\n```python\nfor word in words:\n    print(word)\n```", True),
        ("fr", "Voir https://example.com/the/best/page/of/the/world pour plus.", True),
        ("fr", "12", False),
        ("en", "", False),
        ("en", "```\nonly code in here\n```", False),
    ],
)
def test_scripts_code_and_addresses(code, text, expected):
    assert passes(code, text) is expected
    assert passes("ja", "東京", loose=True)


def test_every_language_that_the_classifier_must_tell_is_known_to_it():
    import py3langid

    assert {code for code, _ in py3langid.rank("x")} >= languages.CODES


@pytest.mark.parametrize("code", ["german", "xx", "DE"])
def test_an_unknown_code_is_refused_with_the_known_ones(code):
    with pytest.raises(PrefevalError, match=f"unknown language '{code}'; known: af, ar, .*zh"):
        checks.validate_check({"kind": "language", "code": code})
