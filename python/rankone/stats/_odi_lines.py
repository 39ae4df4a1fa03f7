"""Sentences of the simulated commentary and summaries, by what is true of the ball or the match.

Lines without a cue, paraphrases outside the lexicon (the last of each class misleads) and lines
that need negation or the longest match are there so that a parser can be wrong.
"""

from __future__ import annotations

LENGTHS = ("full", "good length", "back of a length", "short of a length", "yorker length", "short")

PLAIN = {
    1: (
        "driven through the covers",
        "pushed into the off side",
        "defended back to the bowler",
        "clipped off the pads",
        "worked to the leg side",
        "cuts it square",
        "nudged around the corner",
        "timed nicely through extra cover",
        "middled towards long on",
        "left alone outside off",
        "played with soft hands to point",
        "pulled away along the ground",
        "swept fine, well timed",
        "steered to third with ease",
    ),
    0: (
        "beaten outside off",
        "edged past the keeper",
        "plays and misses at that",
        "inside edge onto the thigh",
        "mistimed to mid off",
        "skied over the infield",
        "hurried by the extra pace",
        "top edge lands safely",
        "rapped on the pads",
        "chipped in the air, late on it",
        "wafts at it away from the body",
        "dropped at slip",
        "squared up by the movement",
        "sliced over backward point",
    ),
}
TRICK = {
    1: (
        "there was no edge, comfortably kept out",
        "driven to the edge of the circle",
        "not beaten by the turn, worked away",
        "no false shot there, nudged into the covers",
        "middle and leg line, clipped away",
        "the fielder is beaten by the pace, crunched past cover",
        "not without control, eased into the gap",
        "that wasn't edged, came off the full face",
    ),
    0: (
        "driven but not timed well",
        "never in control of it",
        "far from comfortable",
        "not middled, it drops short of mid off",
        "hardly timed well, lobs up over cover",
        "no control over that one",
        "swings hard, out of control",
    ),
}
# As likely on either kind of ball: nothing in them tells.
WITHOUT_CUE = (
    "angled across the right hander",
    "goes to mid on",
    "straight at the man at point",
    "on a fourth stump line",
    "rolls away to the sweeper",
    "a bit of swing on that one",
)
PARAPHRASE = {
    1: (
        "rolls the wrists and away it goes",
        "right out of the screws",
        "meets it under the eyes",
        "picks it up from a nagging length, that is beaten away through the leg side",
    ),
    0: (
        "has no idea where that went",
        "feels for it and is opened up",
        "gets a feather on it, through to the keeper on the bounce",
        "pushes at it and it comes off the shoulder of the bat",
    ),
}
WIDE = ("down the leg side", "too far outside off", "over the head")

PITCH_SENTENCES = {
    "batting": (
        "It was a flat track with true bounce.",
        "The surface was full of runs, not green at all.",
        "A belter of a pitch awaited both sides.",
    ),
    "seam": (
        "There was plenty of seam movement on a green surface.",
        "The pitch was lively, with variable bounce and never flat.",
        "A grassy strip offered help for the seamers.",
    ),
    "spin": (
        "The pitch was dusty and offered turn.",
        "It was slow and low, not a belter, and the ball was gripping.",
        "A dry surface with cracks awaited both sides.",
    ),
    "unknown": (
        "The strip had been used earlier in the week.",
        "The captains had little to say about the surface.",
        "The square was relaid in the winter.",
    ),
}
WEATHER_SENTENCES = {
    "clear": (
        "It was sunny throughout.",
        "The rain stayed away and there were blue skies.",
        "The day was warm, with no cloud cover.",
    ),
    "overcast": (
        "It was overcast all day.",
        "It was not sunny, and heavy clouds hung over the ground.",
        "Under grey skies the floodlights came on early; showers held off.",
    ),
    "rain": (
        "A rain delay cost half an hour.",
        "Drizzle greeted the players and there was no sunshine.",
        "A wet outfield and passing showers pushed back the start.",
    ),
    "unknown": (
        "The match began on time.",
        "A good crowd was in early.",
        "The toss was delayed by a ceremony.",
    ),
}
