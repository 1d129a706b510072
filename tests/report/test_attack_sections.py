"""What the report says of attacks: the worst for each release, and never less than what was measured."""

import re

from msgspec.structs import replace

from ne_jax.attacks.registry import BY_NAME
from ne_jax.measure.records import NotRun
from ne_jax.report import attack_sections, page
from tests.rows import ATTACKED, GROWTH, attacked


def test_the_worst_is_what_gives_a_reader_most_back():
    """Relatives of the authorized model read the files as they are, so the gain counts and not the value; the authorized model itself
    does not count, nor a cosine."""
    relative = attacked(0.9, reader="vit_a_tuned", value_ne=0.89)
    rows = [
        ATTACKED,
        relative,
        attacked(1.0, reader="vit_a"),
        attacked(1.0, metric="feature_cosine"),
        attacked(1.0, tier=4),
    ]
    assert attack_sections.worst(rows, "png8", (1, 2)) is ATTACKED
    assert attack_sections.worst(rows, "float32", (1, 2)) is None


def test_pictures_released_twice_are_told_apart():
    """One secret prevents that, so it must not stand for what a blind attacker does."""
    (twice,) = (name for name, attack in BY_NAME.items() if "again" in attack.knows)
    rows = [ATTACKED, attacked(0.7, tier=2, attack=twice)]
    assert attack_sections.headline(rows, "png8") == (
        f" Attacked: best blind attack 50.0% (vit_b, {BY_NAME['jpeg'].title}); on pictures released twice, which one secret "
        f"prevents 70.0% (vit_b, {BY_NAME[twice].title})."
    )
    assert attack_sections.headline([], "png8") == ""


def test_a_stronger_attack_by_others_overrides():
    """A line with a higher value takes the place of ours, and stands in headline and table under its author's name."""
    theirs = attacked(0.999, by="A. Reader", attack="their_denoiser", tier=2, parameters={"scale": 0.5, "kind": "x"})
    rows = [ATTACKED, attacked(0.6, by="B. Reader"), theirs]
    assert "99.9% (vit_b, their_denoiser)" in attack_sections.headline(rows, "png8")
    text = page.render("attacks", attack_sections.section(rows, [], [], False))
    assert "**their_denoiser: scale 0.5, kind x (by A. Reader)**" in text
    assert "(by B. Reader)" in text and "50.0%" not in text
    assert "figures/" not in text and "Not run" not in text


def test_what_did_not_run_is_told_once():
    """With its release and the reason."""
    why = NotRun(release_format="png8", attack="grey", why="images of one channel are grey already")
    text = page.render("attacks", attack_sections.section([ATTACKED], [why, why], [], True))
    assert text.endswith(
        f"Not run, and why:\n\n- png8, {BY_NAME['grey'].title}: images of one channel are grey already"
    )
    assert text.count("figures/attacks.png") == 1
    assert attack_sections.section([], [why], [], False) is None and attack_sections.robustness([]) is None


def test_robustness_sets_the_authorized_model_beside_the_best_other():
    """A line for each way to process the files: the authorized model after it, its clean images so processed, who else reads best."""
    own = attacked(0.8, reader="vit_a", value_ne=0.85, value_control=0.82)
    values = attack_sections.robustness([own, ATTACKED, attacked(0.4, reader="resnet_a")])
    head, _, line = page.render("robustness", values).splitlines()[-3:]
    assert "vit_a (authorized; accuracy, as it is 85.0%)" in head
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["80.0% [80.0%, 80.0%]", "82.0%", "vit_b", "50.0% [30.0%, 70.0%]"]


def test_order_counts_cells():
    """A cell holds where tier 4 >= tier 3 >= tier 2 at their best."""
    rising = [attacked(value, tier=tier) for tier, value in ((2, 0.1), (3, 0.2), (4, 0.3))]
    assert attack_sections.order(rising) == (1, 1)
    assert attack_sections.order([*rising, attacked(0.25, tier=2)]) == (0, 1)


def test_a_terminal_is_told_too():
    """The same headline; and a line where nothing was attacked."""
    told = 'nothing attacked: attack.suite is "none", or attack.only names curves alone'
    assert attack_sections.text([]) == told
    first, last = attack_sections.text([ATTACKED]).splitlines()
    assert first == f"png8:{attack_sections.headline([ATTACKED], 'png8')}" and last.startswith("Check of the attacks:")


# A relative of the authorized model: it reads the files as they are, and a little noise makes that a recovery of 200 %.
RELATIVE = attacked(0.859, reader="vit_a_tuned", value_ne=0.852, value_clean=0.8555, recovery=2.0)


def test_who_lost_nothing_is_no_attack_s_success():
    """Though all attacks harm the others, the headline names one of these, and says who was left out; so does the table, and the
    attack's picture and the line of robustness are not theirs either."""
    harmed = attacked(0.2, value_ne=0.25)
    rows = [RELATIVE, harmed]
    assert attack_sections.worst(rows, "png8", (1, 2)) is harmed
    left = "Left out: 1 reader (vit_a_tuned) that lost less than 10% of what they read of clean images."
    assert attack_sections.headline(rows, "png8") == (
        f" Attacked: best blind attack 20.0% (vit_b, {BY_NAME['jpeg'].title}). {left}"
    )
    text = page.render("attacks", attack_sections.section(rows, [], [], False))
    assert "85.9%" not in text and "200%" not in text and left in text
    own = attacked(0.8, reader="vit_a", value_ne=0.85)
    table = page.render("robustness", attack_sections.robustness([own, *rows]))
    assert "vit_b" in table and "vit_a_tuned" not in table


def test_where_nobody_lost_anything_no_attack_is_the_best():
    """It is said, for one reader and for several, instead of a figure; and where no other reader was asked, too."""
    other = attacked(0.9, reader="vit_b", value_ne=0.9, value_clean=0.9)
    told = attack_sections.headline([RELATIVE, other], "png8")
    assert (
        told == " Left out: 2 readers (vit_a_tuned, vit_b) that lost less than 10% of what they read of clean images."
    )
    text = page.render("attacks", attack_sections.section([RELATIVE, other], [], [], False))
    assert (
        "no reader but the authorized model lost anything that an attack could give back" in text
        and "| tier" not in text
    )
    alone = attacked(0.9, reader="vit_a", value_ne=0.9)
    assert attack_sections.headline([alone], "png8") == ""
    assert "no reader but the authorized" in page.render("attacks", attack_sections.section([alone], [], [], False))


def test_a_tenth_is_the_line():
    """Of what a reader reads of clean images."""
    for as_is, counts in ((0.71, False), (0.67, True), (0.0, True), (0.9, False)):
        row = attacked(0.5, value_ne=as_is, value_clean=0.75)
        assert (attack_sections.worst([row], "png8", (1,)) is row) == counts


def test_ten_times_as_many_files_are_told():
    """What all files give, and ten times as many by extrapolation, with its interval: in the headline's words, and under the curves."""
    line = [
        replace(GROWTH, release_format="png8", count=count, value=value, value_ne=0.1, value_clean=0.9)
        for count, value in ((500, 0.4), (2000, 0.6))
    ]
    told = attack_sections.by_files(line, "png8")
    title = BY_NAME["gevd_inpainting"].title
    assert told.startswith(
        f" By the number of files: {title}, with fixed parameters, gives vit_b 60.0% from all 2,000; 10 times"
    )
    assert re.search(r"would give about \d\d% \[\d\d%, \d\d%\] by extrapolation, the most of such attacks\.$", told)
    assert attack_sections.by_files(line, "float32") == attack_sections.by_files([GROWTH], "png8") == ""
    text = page.render("attacks", attack_sections.section([ATTACKED], [], line, False))
    assert f"- png8:{told}" in text and "logistic curve" in text
    assert "logistic" not in page.render("attacks", attack_sections.section([ATTACKED], [], [], False))
