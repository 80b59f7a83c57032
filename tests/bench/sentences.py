"""Questions and the sentence that answers each: what retrieval is tried on. Written for this project."""

from __future__ import annotations

__all__ = ["PAIRS"]

PAIRS = (
    ("How do I reset my password?", "Click the link on the login page to choose new credentials."),
    ("When does the museum open?", "Visitors are let in from ten in the morning, Tuesday to Sunday."),
    ("What is the capital of Australia?", "Canberra is the seat of the Australian government."),
    ("How long should I boil an egg?", "For a firm yolk leave it in bubbling water for nine minutes."),
    ("Why is the sky blue?", "Air scatters short wavelengths of sunlight more than long ones."),
    ("Who wrote Pride and Prejudice?", "Jane Austen published her best known novel in 1813."),
    ("How can I lower my electricity bill?", "Switching off idle devices and using LED lamps saves energy at home."),
    ("What causes tides in the ocean?", "The moon's gravity pulls the water of the seas up and down."),
    ("Is it safe to eat raw chicken?", "Uncooked poultry may carry salmonella and should be heated through."),
    ("How do vaccines work?", "They show the immune system a harmless part of a germ so that it is recognised later."),
    ("What should I pack for a hike?", "Take water, a map, sturdy boots and a rain jacket on the trail."),
    ("How does a bill become law?", "Parliament debates the draft, votes on it, and the head of state signs it."),
    (
        "My phone battery drains too fast.",
        "Dim the screen and close background apps to make a charge last longer.",
    ),
    ("How do plants make food?", "Leaves turn light, water and carbon dioxide into sugar."),
    ("What is the fastest land animal?", "Cheetahs reach more than a hundred kilometres an hour for short sprints."),
    ("How do I remove red wine stains?", "Blot the fabric, cover the spot with salt and rinse it with cold water."),
    ("Can I return shoes I bought online?", "Footwear may be sent back unworn within thirty days for a refund."),
    ("How is cheese made?", "Milk is curdled with rennet, drained, pressed and left to ripen."),
    ("What does inflation mean?", "Prices rise in general, so money buys less than before."),
    ("Why do leaves change colour in autumn?", "Trees break down chlorophyll, and yellow and red pigments show."),
    (
        "How do airplanes stay in the air?",
        "The shape of the wings makes air push them up as the craft moves.",
    ),
    ("What is the tallest mountain on Earth?", "Everest rises 8,849 metres above the level of the sea."),
    ("How do I sort a list in Python?", "Call sorted, which gives the elements back in order."),
    ("What is a mortgage?", "A bank lends money for a house and keeps a claim on it until all is repaid."),
    ("How many players are on a football team?", "Each side fields eleven people, one of whom keeps the goal."),
    ("Why do cats purr?", "The animal's throat muscles vibrate, mostly when it is content."),
    ("How do I train for a marathon?", "Increase the distance of your weekly runs slowly over several months."),
    ("What was the Black Death?", "A plague killed a third of Europe's people in the fourteenth century."),
    ("How do I back up my computer?", "Copy your files regularly to an external drive or to cloud storage."),
    (
        "What is the boiling point of water?",
        "At sea level it turns to steam at one hundred degrees Celsius.",
    ),
    ("How do I apply for a visa?", "Fill in the embassy's form and hand it in with your passport and a photograph."),
    ("Why is exercise good for the heart?", "Regular movement strengthens the muscle that pumps blood."),
    ("What is photosensitive epilepsy?", "Flashing lights trigger seizures in some people."),
    ("How do bees make honey?", "Workers gather nectar, thicken it and store it in wax cells."),
    ("How does a microwave oven heat food?", "Radiation makes the water molecules in a dish swing and warm up."),
    ("What does a conductor do?", "He or she leads an orchestra and sets its tempo."),
    ("How can I fall asleep more easily?", "Keep the bedroom dark and cool, and avoid coffee in the evening."),
    ("What is the currency of Japan?", "Shoppers in Tokyo pay with yen."),
    (
        "Why did the Roman Empire fall?",
        "Invasions, weak emperors and a failing economy ended it in the west.",
    ),
    ("How do I change a flat tyre?", "Loosen the nuts, lift the car with a jack and put on the spare wheel."),
)
