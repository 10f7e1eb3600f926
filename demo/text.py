"""Demo sentences from a small grammar: data in (a seed), data out (lists of sentences).

Every sentence is unique across the three splits, so that no evaluation or calibration sentence is
ever in the training text. Words that sound alike (two/to, four/for, sea/see) are left out: a WER
should measure the model, not the spelling.
"""

import random

WORDS = {
    "name": [
        "anna",
        "peter",
        "maria",
        "oliver",
        "simon",
        "laura",
        "victor",
        "helen",
        "martin",
        "sofia",
        "daniel",
        "emma",
    ],
    "number": [
        "three",
        "five",
        "six",
        "seven",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "twenty",
        "thirty",
        "fifty",
        "hundred",
    ],
    "day": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"],
    "month": [
        "january",
        "february",
        "march",
        "april",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ],
    "colour": ["yellow", "green", "black", "purple", "orange", "silver", "golden", "brown"],
    "adjective": [
        "little",
        "heavy",
        "ancient",
        "broken",
        "gentle",
        "quiet",
        "hungry",
        "famous",
        "clever",
        "empty",
        "frozen",
        "dusty",
        "lonely",
        "narrow",
        "perfect",
        "strange",
        "wooden",
        "modern",
    ],
    "animal": [
        "tiger",
        "rabbit",
        "monkey",
        "eagle",
        "dolphin",
        "spider",
        "camel",
        "turtle",
        "donkey",
        "penguin",
        "lizard",
        "falcon",
    ],
    "person": [
        "doctor",
        "teacher",
        "captain",
        "farmer",
        "soldier",
        "painter",
        "lawyer",
        "driver",
        "singer",
        "engineer",
        "student",
        "neighbour",
    ],
    "thing": [
        "camera",
        "basket",
        "ticket",
        "letter",
        "hammer",
        "bottle",
        "blanket",
        "piano",
        "ladder",
        "engine",
        "pencil",
        "mirror",
        "wallet",
        "jacket",
        "button",
        "computer",
        "telephone",
        "package",
        "umbrella",
        "candle",
    ],
    "food": [
        "butter",
        "chicken",
        "potato",
        "carrot",
        "pepper",
        "honey",
        "cheese",
        "coffee",
        "sugar",
        "lemon",
        "pumpkin",
        "garlic",
    ],
    "place": [
        "garden",
        "kitchen",
        "village",
        "harbour",
        "mountain",
        "station",
        "market",
        "museum",
        "forest",
        "hospital",
        "library",
        "castle",
        "bridge",
        "airport",
        "factory",
        "island",
        "theatre",
        "valley",
    ],
    "past": [
        "carried",
        "followed",
        "painted",
        "forgot",
        "watched",
        "discovered",
        "repaired",
        "borrowed",
        "delivered",
        "protected",
        "counted",
        "ignored",
    ],
    "verb": [
        "carry",
        "follow",
        "paint",
        "forget",
        "watch",
        "discover",
        "repair",
        "borrow",
        "deliver",
        "protect",
        "count",
        "ignore",
    ],
    "move": [
        "walked",
        "travelled",
        "jumped",
        "wandered",
        "climbed",
        "hurried",
        "returned",
        "escaped",
    ],
    "preposition": ["behind", "under", "beside", "above", "inside", "around", "beyond", "across"],
    "adverb": ["slowly", "quickly", "always", "never", "quietly", "suddenly", "carefully", "often"],
    "weather": ["rainy", "sunny", "windy", "cloudy", "foggy", "stormy"],
    "time": ["morning", "evening", "afternoon", "midnight", "winter", "summer", "autumn", "spring"],
}

TEMPLATES = [
    "the {adjective} {animal} {adverb} {move} {preposition} the {colour} {place}",
    "{name} {past} a {colour} {thing} and {number} {thing}s",
    "please {verb} the {adjective} {thing} {preposition} the {place}",
    "why did the {person} {verb} the {animal} in {month}",
    "{name} and {name} {move} {preposition} the {adjective} {place} on {day}",
    "it was a {weather} {time} when the {person} {past} the {thing}",
    "we need {number} {thing}s and some {food} before {day}",
    "the {person} will {verb} {name} every {time}",
    "mix the {food} with {food} and leave it in the {place}",
    "on {day} {name} {move} to the {place} with a {adjective} {person}",
    "do not {verb} the {colour} {animal} {preposition} the {thing}",
    "there are {number} {adjective} {animal}s {preposition} the {place}",
    "my {person} never liked {food} or {food} in the {time}",
    "{number} {person}s {adverb} {past} the {adjective} {thing} last {month}",
    "tell {name} that the {thing} is {preposition} the {colour} {thing}",
    "can you {verb} {number} {thing}s for {name}",
    "in {month} the {weather} {place} looks {adjective} and {adjective}",
    "the {animal} {past} {name} from the {place} until {time}",
    "she {adverb} {past} her {adjective} {person} at the {place}",
    "he said that {number} {animal}s {move} {preposition} the {thing}",
]

SPLITS = ("evaluation", "calibration", "training")


def vocabulary() -> set[str]:
    """Every word that a sentence may hold (plural forms included)."""
    fixed = {word for template in TEMPLATES for word in template.split() if "{" not in word}
    open_class = {word for group in WORDS.values() for word in group}
    plural = {word + "s" for group in ("thing", "animal", "person") for word in WORDS[group]}
    return fixed | open_class | plural


def sentences(counts: dict[str, int], seed: int) -> dict[str, list[str]]:
    """Draw unique sentences for each split of `counts` (split name → number of sentences); the same
    seed, the same lists.
    """
    draw = random.Random(seed)
    seen: set[str] = set()
    drawn = {}
    for split, count in counts.items():
        drawn[split] = []
        while len(drawn[split]) < count:
            sentence = _sentence(draw)
            if sentence not in seen:
                seen.add(sentence)
                drawn[split].append(sentence)
    return drawn


def _sentence(draw: random.Random) -> str:
    words = {group: draw.sample(choices, 2) for group, choices in WORDS.items()}
    template = draw.choice(TEMPLATES)
    for group, pair in words.items():  # two different words where a template names a group twice
        for word in pair:
            template = template.replace("{" + group + "}", word, 1)
    return template
