import bz2

import pytest

from anyglot.data.corpora import wikipedia

EXPORT = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>Cat</title><revision><text>A &lt;b&gt;cat&lt;/b&gt; purrs.</text></revision></page>
<page><title>Kitty</title><revision><text>#REDIRECT [[Cat]]</text></revision></page>
<page><title>Wikipedia:Policy</title><revision><text>Be kind.</text></revision></page>
<page><title>Dog</title><revision><text>A dog barks.</text></revision></page>
</mediawiki>"""


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Cats''' are ''small'' [[mammal]]s.", "Cats are small mammals."),
        ("The [[domestic cat|cat]] of [[Rome#History|Rome]].", "The cat of Rome."),
        ("A cat.<ref name=a>See {{cite book|title=Cats}}.</ref><ref name=a/> It purrs.", "A cat. It purrs."),
        ("It weighs {{convert|4|kg|lb}} and {{nowrap|is small}}.", "It weighs 4 kg and is small."),
        ("A cat ({{lang-la|felis|{{x|y}}}}; {{IPA|kat}}) purrs.", "A cat purrs."),
        ("[[File:Cat.jpg|thumb|A [[cat]] in [[Rome]]]]Cats sleep.", "Cats sleep."),
        ("Cats[[fr:Chat]] sleep.[[Category:Cats]]", "Cats sleep."),
        ("See [http://cat.org the cats] now.", "See the cats now."),
        ("R&amp;D &ndash; 5&nbsp;km", "R&D \N{EN DASH} 5 km"),
        ("<!-- hidden [[x]] -->Seen<br/> here.", "Seen here."),
        ("Homer's ''Iliad'''s end.", "Homer's Iliad's end."),
        ("{| class=x\n| a {{b}}\n{| \n| c\n|}\n|}\nAfter.", "After."),
    ],
)
def test_markup_is_resolved(wikitext, text):
    assert wikipedia.plain(wikitext).strip() == text


def test_lists_headings_and_closing_sections_are_left_out():
    wikitext = "First.\n== Life ==\n* item\n# item\n: quote\nSecond.\n== See also ==\nThird."
    assert [line for line in wikipedia.plain(wikitext).split("\n") if line] == ["First.", "Second."]


def test_a_sentence_with_a_formula_or_leftover_markup_is_left_out():
    wikitext = "Cats are small and sleep. The area is <math>x^2</math> here. Dogs are large and bark."
    assert wikipedia.paragraphs(wikitext, 10, 600) == ["Cats are small and sleep.", "Dogs are large and bark."]
    assert wikipedia.paragraphs("Cats sleep a lot. Broken {{template here. Dogs bark.", 5, 600) == [
        "Cats sleep a lot.",
        "Dogs bark.",
    ]


def test_long_paragraphs_are_cut_between_sentences():
    sentences = [f"Sentence number {number} is here." for number in range(20)]
    pieces = wikipedia.paragraphs(" ".join(sentences), 20, 100)
    assert all(20 <= len(piece) <= 100 for piece in pieces)
    assert " ".join(pieces) == " ".join(sentences)


def test_fragments_are_left_out():
    assert wikipedia.paragraphs("no full stop at the end of this line\nToo short.", 15, 600) == []


def test_articles_skip_redirects_and_project_pages():
    found = dict(wikipedia.articles(bz2.compress(EXPORT.encode())))
    assert found == {"Cat": "A <b>cat</b> purrs.", "Dog": "A dog barks."}
