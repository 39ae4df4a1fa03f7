"""Shot control from commentary and match conditions from summaries."""

import pickle

import numpy as np
import pandas as pd
import pytest
from rankone.stats import _commentary_lexicon as lexicon
from rankone.stats import _odi_lines as lines
from rankone.stats.batting import (
    CommentaryParser,
    Cue,
    MatchConditionExtractor,
    align_commentary,
    load_cricsheet,
    simulate_odi,
)
from sklearn.base import clone


def control(text, **options):
    return CommentaryParser(**options).parse(text).control


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("beaten! no edge", 0),
        ("there was no edge, he drives", 1),
        ("not timed well but gets it away", 0),
        ("driven to the edge of the circle", 1),
        ("not without control", 1),
        ("FOUR", -1),
        ("in the air but lucky", 0),
        ("skied, no control", 0),
        ("never in control of it", 0),
        ("far from comfortable", 0),
        ("driven but not timed well", 0),
        ("", -1),
    ],
)
def test_rules_read_these_lines(text, code):
    assert control(text) == code


def test_a_hard_cue_decides_against_any_score():
    reading = CommentaryParser().parse("middled, well timed, in control, then edged")
    assert reading.control == 0
    assert reading.score == 2 + 2 + 2 - 4


def test_cues_say_what_was_found():
    reading = CommentaryParser().parse("there was no edge, he drives")
    assert reading.cues == (Cue("edge", 1.0, False, True), Cue("drives", 1.0, False, False))
    assert CommentaryParser().parse("edged").cues == (Cue("edged", -4.0, True, False),)
    assert CommentaryParser().parse("not mistimed").cues == (Cue("mistimed", 2.0, False, True),)


def test_no_run_does_not_negate_the_next_word():
    assert control("no run driven") == 1
    assert control("no ball middled") == 1


def test_words_are_never_matched_inside_others():
    assert control("fireworks at the ground") == -1
    assert control("knowledgeable crowd") == -1


def test_a_mark_or_a_contrast_word_ends_a_negation():
    assert control("not there, driven") == 1
    assert control("not there but driven") == 1
    assert control("not driven") == 0


def test_a_negator_reaches_exactly_the_window():
    # The cue starts 4, then 5 tokens after the negator.
    assert control("not a a a driven") == 0
    assert control("not a a a a driven") == 1
    assert control("not a a driven", negation_window=2) == 1


def test_window_zero_switches_negation_off():
    assert control("not driven", negation_window=0) == 1
    assert control("there was no edge, he drives", negation_window=0) == 0


def test_a_negator_that_flipped_is_spent():
    # "not" turns the first cue alone: -1 + 1 + 1.
    reading = CommentaryParser().parse("not driven pushed pulled")
    assert [cue.negated for cue in reading.cues] == [True, False, False]


def test_two_negators_cancel_and_three_do_not():
    assert control("not never driven") == 1
    assert control("not never hardly driven") == 0


def test_contractions_and_curly_apostrophes():
    for text in ("isn't middled", "isn\u2019t middled", "can't be middled", "CANNOT be MIDDLED"):
        (cue,) = CommentaryParser().parse(text).cues
        assert cue.negated, text
    assert control("wasn\u2019t edged") == 1
    assert control("won't be edged") == 1
    # Two contractions, two negators.
    assert control("don't say it's not middled") == 1


def test_hyphens_are_spaces():
    assert control("a toe-ended pull") == 0
    assert control("well-timed") == 1


def test_the_result_prefix_is_dropped_only_when_it_is_one():
    assert control("Edge to Nick, no run, driven") == 1
    assert control("Edge to Nick, 1 wide") == -1
    assert control("A to B, FOUR runs, full, driven") == 1
    assert control("beaten to the ball, driven") == 0
    assert control("Edge to Nick, driven") == 0


def test_longest_phrase_wins():
    (cue,) = CommentaryParser().parse("not in control").cues
    assert (cue.phrase, cue.weight, cue.negated) == ("not in control", -2.0, False)
    (cue,) = CommentaryParser().parse("inside edge").cues
    assert cue.phrase == "inside edge"


def test_user_entries_are_added_and_override():
    extra = {"Off-the Meat": 2, "driven": -5, "edge": 0}
    assert control("off the meat", lexicon=extra) == 1
    assert control("driven", lexicon=extra) == 0
    assert CommentaryParser(lexicon=extra).parse("driven").cues[0].hard
    assert control("edge", lexicon=extra) == -1


def test_phrases_without_a_meaning_spend_no_negator():
    assert control("not out driven") == 1  # "not out" is one phrase
    # "not" passes over the silent phrase and turns the cue behind it.
    assert control("not crowd driven", lexicon={"crowd": 0}) == 0
    assert control("never no run", lexicon={"no run": 2}) == 0


def test_default_control_is_for_lines_without_a_verdict():
    assert control("straight to the man", default="control") == 1
    assert control("edged", default="control") == 0


def test_events_and_wides_in_parse():
    parser = CommentaryParser()
    assert parser.parse("driven", wicket_kind="caught").control == 0
    assert parser.parse("driven", wicket_kind="run out").control == 1
    assert parser.parse("driven", is_wide=True).control == -1
    assert CommentaryParser(use_events=False).parse("driven", wicket_kind="caught").control == 1


def test_codes_apply_wides_and_wickets_row_by_row():
    deliveries = pd.DataFrame(
        {
            "batter": ["A", "A", "A", "A", "A"],
            "wides": [1, 0, 0, 0, 0],
            "wickets": [(), (("A", "lbw"),), (("B", "run out"),), (("A", "bowled"),), ()],
        }
    )
    codes = CommentaryParser().control_codes(
        deliveries, ["driven", "driven", "driven", None, float("nan")]
    )
    assert codes.dtype == np.int8
    assert codes.tolist() == [-1, 0, 1, -1, -1]


def test_transform_reads_text_alone():
    codes = CommentaryParser().fit_transform(pd.Series(["driven", None, "edged"]))
    assert codes.dtype == np.int8
    assert codes.tolist() == [1, -1, 0]


def test_every_built_in_phrase_reads_as_its_weight():
    parser = CommentaryParser(negation_window=0)
    for phrase, weight in lexicon.SHOT_WEIGHTS.items():
        assert parser.parse(phrase).score == weight, phrase
    for phrase in lexicon.NEUTRAL_PHRASES:
        assert parser.parse(phrase).cues == (), phrase


def test_generated_lines_mean_what_their_class_says():
    parser = CommentaryParser()
    for group in (lines.PLAIN, lines.TRICK):
        for code, texts in group.items():
            assert (parser.transform(texts) == code).all()
    assert (parser.transform(lines.WITHOUT_CUE) == -1).all()
    for code, texts in lines.PARAPHRASE.items():
        read = parser.transform(texts)
        assert (read == 1 - code).any()  # some mislead
        assert (read == -1).any()
    assert all(len(lines.PLAIN[code]) >= 12 and len(lines.TRICK[code]) >= 6 for code in (0, 1))


def test_parser_is_cloned_and_pickled():
    parser = CommentaryParser(lexicon={"meaty": 2.0}, negation_window=2)
    for copy in (clone(parser), pickle.loads(pickle.dumps(parser))):
        assert copy.get_params() == parser.get_params()
        assert copy.parse("meaty").control == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"negation_window": -1}, "negation_window must be an integer"),
        ({"negation_window": 1.5}, "negation_window must be an integer"),
        ({"default": "yes"}, "default must be"),
        ({"lexicon": {"!": 1}}, "lexicon must have phrases"),
        ({"lexicon": {"fine": "good"}}, "lexicon must have numbers"),
        ({"lexicon": ["fine"]}, "lexicon must map"),
    ],
)
def test_bad_parser_parameters(options, words):
    with pytest.raises(ValueError, match=words):
        CommentaryParser(**options).parse("driven")
    with pytest.raises(ValueError, match=words):
        CommentaryParser(**options).fit()


def test_bad_texts():
    with pytest.raises(ValueError, match="text must be a str, got 3"):
        CommentaryParser().parse(3)
    with pytest.raises(ValueError, match="got 3 in row 1"):
        CommentaryParser().transform(["driven", 3])
    with pytest.raises(ValueError, match="sequence of texts"):
        CommentaryParser().transform("driven")
    with pytest.raises(ValueError, match="text must be a str"):
        MatchConditionExtractor().extract(None)
    frame = pd.DataFrame({"batter": ["A"], "wides": [0], "wickets": [()]})
    with pytest.raises(ValueError, match=r"one entry a delivery \(1\), got 2"):
        CommentaryParser().control_codes(frame, ["a", "b"])
    with pytest.raises(ValueError, match="wickets"):
        CommentaryParser().control_codes(frame[["batter", "wides"]], ["a"])


@pytest.mark.parametrize(
    ("text", "pitch", "weather"),
    [
        ("A green top under cloudy skies.", "seam", "overcast"),
        ("The rain stayed away.", "unknown", "unknown"),
        ("Showers held off. A rain delay came later.", "unknown", "rain"),
        ("It was not sunny, overcast instead", "unknown", "overcast"),
        ("The pitch was not flat but dusty", "spin", "unknown"),
        ("flat and green", "unknown", "unknown"),
        ("flat, a belter, and green", "batting", "unknown"),
        ("a full house", "unknown", "unknown"),
    ],
)
def test_conditions_of_a_summary(text, pitch, weather):
    assert MatchConditionExtractor().extract(text) == {"pitch": pitch, "weather": weather}


def test_generated_summaries_read_as_their_class():
    extractor = MatchConditionExtractor()
    for label, texts in lines.PITCH_SENTENCES.items():
        assert [extractor.extract(text)["pitch"] for text in texts] == [label] * len(texts)
    for label, texts in lines.WEATHER_SENTENCES.items():
        assert [extractor.extract(text)["weather"] for text in texts] == [label] * len(texts)


def test_condition_lexicons_take_phrases_or_classes():
    for given in ({"skiddy": "seam"}, {"seam": ["skiddy"]}):
        assert MatchConditionExtractor(pitch_lexicon=given).extract("skiddy")["pitch"] == "seam"
    off = MatchConditionExtractor(weather_lexicon={"hot": "unknown"})
    assert off.extract("hot")["weather"] == "unknown"
    with pytest.raises(ValueError, match="weather_lexicon must map"):
        MatchConditionExtractor(weather_lexicon={"hot": 3}).fit()


def test_conditions_of_several_summaries_keep_the_index():
    frame = MatchConditionExtractor().fit_transform(pd.Series(["sunny", None], index=[7, 9]))
    assert frame["weather"].to_dict() == {7: "clear", 9: "unknown"}


def _keyed(**columns):
    base = {"match_id": "1", "innings": 1, "over": [0, 0, 1], "ball": [1, 2, 1]}
    return pd.DataFrame({**base, **columns})


def test_commentary_joins_on_the_key_in_any_order():
    commentary = _keyed(text=["a", "b", "c"]).iloc[::-1]
    assert align_commentary(_keyed(), commentary).tolist() == ["a", "b", "c"]


def test_labels_that_repeat_on_wides_count_within_the_over():
    # 12.1 is a wide and is bowled again: three lines, two labels.
    deliveries = pd.DataFrame({"match_id": "1", "innings": 1, "over": 12, "ball": [1, 2, 3]})
    commentary = pd.DataFrame(
        {"match_id": 1, "innings": 1, "label": ["12.1", "12.1", "12.2"], "text": ["w", "x", "y"]}
    )
    assert align_commentary(deliveries, commentary).tolist() == ["w", "x", "y"]


def test_labels_align_like_keys_on_generated_matches():
    odi = simulate_odi(2, 2, overs=8, random_state=1)
    deliveries = load_cricsheet(odi.cricsheet).deliveries
    labels = []
    legal = 0
    for row in deliveries.itertuples():
        legal = 0 if row.ball == 1 else legal
        labels.append(f"{row.over}.{legal + 1}")
        legal += row.wides == 0 and row.noballs == 0
    labelled = odi.commentary.assign(label=labels)[["match_id", "innings", "label", "text"]]
    expected = align_commentary(deliveries, odi.commentary)
    assert (align_commentary(deliveries, labelled) == expected).all()
    assert deliveries["wides"].sum() > 0


def test_alignment_warns_of_missing_lines_and_rejects_duplicates():
    commentary = _keyed(text=["a", "b", "c"])
    with pytest.warns(UserWarning, match="33.3% of 3 deliveries without"):
        found = align_commentary(_keyed(), commentary.iloc[:2])
    assert found.tolist() == ["a", "b", None]
    with pytest.warns(UserWarning, match="without a delivery"):
        align_commentary(_keyed().iloc[:2], commentary)
    with pytest.raises(ValueError, match="commentary must have each"):
        align_commentary(_keyed(), pd.concat([commentary, commentary]))
    with pytest.raises(ValueError, match="deliveries must have each"):
        align_commentary(pd.concat([_keyed(), _keyed()]), commentary)
    with pytest.raises(ValueError, match="deliveries must have finite numbers in the column over"):
        align_commentary(_keyed().assign(over=[0, np.nan, 1]), commentary)
    with pytest.raises(ValueError, match="label, text"):
        align_commentary(_keyed(), commentary[["match_id", "innings"]])
    with pytest.raises(ValueError, match=r"label must be over\.ball"):
        align_commentary(_keyed(), commentary[["match_id", "innings", "text"]].assign(label="x"))


def test_parser_against_the_truth_of_generated_matches():
    odi = simulate_odi(12, 4, random_state=0)
    deliveries = load_cricsheet(odi.cricsheet).deliveries
    texts = align_commentary(deliveries, odi.commentary)
    truth = odi.truth["control"].to_numpy()

    def accuracy(**options):
        codes = CommentaryParser(**options).control_codes(deliveries, texts)
        decided = (truth >= 0) & (codes >= 0)
        coverage = decided.sum() / (truth >= 0).sum()
        return (codes[decided] == truth[decided]).mean(), coverage

    full, coverage = accuracy()
    assert 0.95 <= full < 1  # some lines cannot be read right
    assert 0.85 <= coverage <= 0.92
    assert full - accuracy(negation_window=0)[0] >= 0.08
    assert accuracy(use_events=False)[0] > full
