"""Phrases by which commentary tells whether a shot was in control, and a summary its conditions.

This library's own choice: the paper's lexicon was not published. Groups hold phrases of one weight;
``|`` separates them.
"""

from __future__ import annotations

HARD_WEIGHT = -4.0  # at or below: one such cue decides alone


def _phrases(group: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in group.split("|"))


_HARD = """edge|edged|edges|inside edge|outside edge|leading edge|top edge|bottom edge|thick edge|
thin edge|nick|nicked|nicks|snick|snicked|beaten|beats the bat|beats him|beats the batter|
beats the outside edge|beats the inside edge|goes past the bat|whistles past the bat|
plays and misses|played and missed|play and miss|swings and misses|swing and a miss|
swung and missed|dropped|drops him|put down|shelled|spilled|chopped on|chops on|dragged on|
drags on|gloved|gloves it|hit on the pad|hit on the pads|struck on the pad|struck on the pads|
rapped on the pad|rapped on the pads|big appeal|huge appeal|loud appeal"""

_OUT_OF_CONTROL = """mistimed|mistimes|miscued|miscues|mishit|mishits|skied|skies|sliced|slices|
off the toe|toe end|toe ended|off the splice|spliced|streaky|hurried|cramped|rushed|squared up|
uncomfortable|fended|fends|wafts|wafted|swishes|swished|hoicks|hoicked|no control|not in control|
out of control|false shot|all at sea|tied in knots|in a tangle|no timing|no foot movement"""

_DOUBTFUL = """in the air|uppish|uppishly|lucky|fortunate|late on it|early on it|jabs|jabbed|prods|
prodded|pokes|poked|lunges|just short of|just over the fielder|just wide of the fielder"""

_IN_CONTROL = """middled|middles it|middle it|middle that|middled it|off the middle|
out of the middle|from the middle|sweet spot|sweetly|well timed|timed well|timed nicely|
nicely timed|timed beautifully|beautifully timed|perfectly timed|timed perfectly|
timed to perfection|in control|full control|complete control|total control|under control|control|
along the ground|keeps it down|kept it down|with ease|no trouble|no problem|without any trouble|
without trouble|soft hands|solid|solidly|comfortable|comfortably|confidently|cracking shot|
great shot|superb shot"""

_PLAYED = """drive|drives|driven|drove|punched|punches|nudged|nudges|works|worked|tucked|tucks|
clipped|clips|flicked|flicks|glanced|glances|steered|steers|guided|guides|pushed|pushes|defended|
defends|blocked|blocks|pulled|pulls|hooked|hooks|cuts|cut away|late cut|swept|sweeps|
reverse swept|lofts|lofted|launches|launched|smashed|smashes|hammered|hammers|thumped|thumps|
crunched|crunches|creamed|creams|whipped|whips|dabbed|dabs|turned away|turns it|left alone|
leaves it|lets it go|lets it through|shoulders arms|finds the gap|pierces the gap|picks the gap|
placed"""

_NEUTRAL = """no run|no ball|not out|no doubt|not only|not for the first time|no slip|no third man|
edge of the circle|edge of the ring|edge of the square|edge of the crease|edge of the box|
edge of the boundary|middle stump|middle and leg|middle and off|middle of the pitch|
fielder is beaten|beaten the fielder|drops short|dropped short|dropped in short"""

SHOT_WEIGHTS: dict[str, float] = {
    **dict.fromkeys(_phrases(_HARD), HARD_WEIGHT),
    **dict.fromkeys(_phrases(_OUT_OF_CONTROL), -2.0),
    **dict.fromkeys(_phrases(_DOUBTFUL), -1.0),
    **dict.fromkeys(_phrases(_IN_CONTROL), 2.0),
    **dict.fromkeys(_phrases(_PLAYED), 1.0),
}
NEUTRAL_PHRASES = _phrases(_NEUTRAL)  # read as a whole, so that their words mean nothing
NEGATORS = _phrases(
    """not|no|never|without|hardly|barely|scarcely|neither|nor|fails to|failed to|unable to|lack of|
    nowhere near|far from|did little to"""
)
CONTRAST_WORDS = frozenset(_phrases("but|though|although|however|yet|nevertheless"))

PITCH_CLASSES: dict[str, tuple[str, ...]] = {
    "batting": _phrases(
        """flat|flat track|flat pitch|batting paradise|good batting track|good batting pitch|
        belter|road|full of runs|true bounce|batting friendly|good for batting|
        excellent for batting|batting surface|ideal for batting"""
    ),
    "seam": _phrases(
        """green|green top|grassy|grass cover|seam movement|seaming|seamer friendly|seam friendly|
        two paced|variable bounce|uneven bounce|lively|swing and seam|help for the seamers|nibble"""
    ),
    "spin": _phrases(
        """turn|turning|turner|dusty|dry surface|rank turner|help for the spinners|spin friendly|
        grip and turn|gripping|cracks|slow and low|sluggish"""
    ),
}
RAIN = "rain"
WEATHER_CLASSES: dict[str, tuple[str, ...]] = {
    "clear": _phrases("sunny|sunshine|clear skies|bright|hot|dry and warm|warm|blue skies"),
    "overcast": _phrases("overcast|cloudy|cloud cover|gloomy|grey skies|gray skies|heavy clouds"),
    RAIN: _phrases(
        """rain|raining|showers|drizzle|wet outfield|rain interruption|rain delay|rain interrupted|
        rain affected|thunderstorm|reduced overs"""
    ),
}
# Anywhere in a sentence, these cancel its hits for rain.
RAIN_CANCELLED = _phrases(
    "stayed away|stay away|held off|hold off|cleared up|passed over|kept away"
)
