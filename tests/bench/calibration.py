"""Sentences by which rounding is calibrated: none is among those that are measured. Written for this project."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.pretrained import Pretrained

__all__ = ["TEXTS", "texts"]

#: Words of a text that is drawn.
_DRAWN = 16

TEXTS = tuple(
    """\
The committee postponed its decision until all members had read the report.
Add two cups of flour, a pinch of salt and mix everything with a wooden spoon.
Is there a pharmacy near the hotel that stays open at night?
The violinist broke a string during the second movement, yet she finished without a pause.
Quarterly revenue grew by twelve percent, mostly thanks to stronger sales in South America.
He locked the door, turned off the lights and listened to the rain on the roof.
What time does the last bus to the airport leave?
Glaciers in the Alps have lost more than half of their volume since 1850.
Please restart the server after you have changed the configuration file.
A triangle with sides of three, four and five units has a right angle.
The patient complained of a sore throat and a mild fever for two days.
My grandmother used to tell stories about wolves and a silver river.
Which of these two cameras takes better pictures in low light?
The goalkeeper saved a penalty in the last minute of extra time.
Whales sing to each other over hundreds of miles.
Our flight was cancelled because of fog, so we took the night train to Vienna.
The function returns an empty list when no row matches the query.
Lawyers for the company argued that the contract had never been valid.
Cut the onions finely and fry them in butter until they are golden.
Where did you buy that green jacket?
The painter mixed blue with a trace of yellow to get the colour of the lake.
In 1492 Columbus crossed the Atlantic with three ships.
The battery lasts for about nine hours when the screen is dimmed.
Nobody knew who had left the parcel on the stairs.
Copper conducts electricity better than iron does.
The teacher asked the children to draw their favourite animal.
How many calories are there in a banana?
Voters rejected the proposal to build a new stadium by the harbour.
The novel tells of a lighthouse keeper who receives a letter every winter.
You can export the table as a spreadsheet or as plain text.
Bats find their way in the dark by listening to echoes.
The old bridge was closed to lorries after engineers had found cracks in it.
I would like to book a table for four at eight o'clock.
The orchestra will play works by Mozart, Haydn and a young composer from Norway.
Insulin lets cells take up sugar from the blood.
She trained every morning before school and won the national title at sixteen.
The price of wheat fell sharply after a good harvest in Ukraine.
Do not leave children in the car on hot days.
Two trains collided near the border, but nobody was seriously hurt.
The probability of rolling two sixes is one in thirty six.
Please find attached the invoice for the work done in March.
The desert is cold at night since the dry air holds little heat.
He speaks Spanish fluently and understands some Portuguese.
A good pair of scissors should be sharpened once a year.
Scientists found traces of water in the crater's shadow.
The cat jumped from the shelf onto the warm keyboard.
What is the name of the river that flows through Cairo?
The software update fixes a security hole in the mail client.
After the storm volunteers cleared branches from the streets.
Saturn's rings are made of ice and rock.
They rented a small cottage by the sea for the whole of August.
The court sentenced the former minister to two years in prison.
How can I convert a string to an integer in Java?
Tea was first grown in China and came to Europe in the seventeenth century.
The boxer hurt his left hand, so the fight had to be put off.
Stir the sauce slowly so that it does not burn.
The museum shows photographs of workers in steel mills.
Her new album was recorded in a barn in Wales.
Vitamin C is found in oranges, peppers and cabbage.
The committee of the chess club meets on the first Monday of each month.
Unemployment has dropped to its lowest level in ten years.
Why does the engine make a strange noise when I accelerate?
The monks copied books by hand and coloured the first letters in gold.
A new species of frog was described in the rain forest of Borneo.
The tenant must give notice three months before moving out.
Turn left at the church, then follow the road for half a mile.
The film is far too long, but the ending is wonderful.
Light from that galaxy needs two million years to reach us.
Can you recommend a book about the history of mathematics?
Knead the dough for ten minutes and leave it under a damp cloth.
The general ordered his troops to withdraw across the river.
Wind turbines supplied a fifth of the country's electricity last year.
I forgot my umbrella in the tram.
The index of the array starts at zero, not at one.
Her doctor advised her to eat less salt and to walk more.
The mayor opened the new library with a short speech.
Sharks have existed for longer than trees.
The shop accepts returns only with the original receipt.
A sonnet has fourteen lines.
Workers at the port went on strike over pay and safety.
Is this seat taken?
The telescope's mirror is as wide as a tennis court.
He inherited a farm with forty cows and a leaking roof.
Do I need a licence to fish in this lake?
The queen wore a simple grey coat at the ceremony.
Blood pressure is measured with a cuff around the upper arm.
The hikers lost the path in the snow and spent the night in a hut.
To install the package, run the command below in a terminal.
The bank raised interest rates for the third time this year.
Olives are picked in autumn and pressed the same day.
The witness could not remember the colour of the van.
A square root of a negative number is not real.
My sister works as a nurse in a children's hospital.
The two countries signed a treaty on fishing rights.
How do you say good morning in Italian?
The carpenter planed the board until it was smooth.
Coffee should be kept in a closed tin, away from light.
The river froze so hard that people skated on it.
Passengers are asked to stay seated until the plane has stopped.
The ancient Greeks believed that thunder was the anger of Zeus.
The coach praised the team's defence after the goalless draw.
An electric car needs less maintenance than one with a petrol engine.
This medicine may make you sleepy; do not drive after taking it.
The baker gets up at two in the morning.
A comma is missing after the first clause.
The investor sold all her shares before the crash.
Where can I see the northern lights?
The puppy chewed up the cable of the lamp.
In chess the bishop moves along diagonals.
Heavy rain caused floods in the south of the country.
The professor's lecture on Roman law was surprisingly funny.
Mushrooms are neither plants nor animals.
Your order has been shipped and should arrive by Thursday.
The drummer keeps the beat while the singer improvises.
The satellite burned up over the Pacific.
He was accused of having forged the signature of his uncle.
Wash the wool by hand in lukewarm water.
What are the side effects of this vaccine?
Prices for flats in the city centre have doubled.
The island can be reached only by boat.
The algorithm sorts the numbers in linear time.
Penguins huddle together to keep warm.
The play was written in 1599 and is still performed all over the world.
We need volunteers for the summer fair on Saturday.
The surgeon removed a tumour the size of a walnut.
Iron rusts when it is wet.
The new phone folds in the middle.
Every citizen has the right to a fair trial.
The tailor took in the waist of the trousers.
How far is it from Madrid to Lisbon?
The children built a castle of sand and decorated it with shells.
A volcano erupted on Iceland and closed the airspace for days.
The singer cancelled her tour because of a throat infection.
Rice is the staple food of half of mankind.
The password must have at least twelve characters.
The referee showed him the red card.
My knees hurt when I climb stairs.
The parliament debated the budget until midnight.
Gold is soft enough to be beaten into thin leaves.
The clock on the tower has been wrong for years.
What is the best way to learn vocabulary?
The factory produces bicycles and wheelchairs.
Clouds form when moist air rises and cools.
The detective noticed mud on the heel of the left shoe.
The university offers courses in law, medicine and engineering.
Peel the potatoes and boil them in salted water.
The ship sank in a storm off the coast of Portugal.
Is it possible to change the date of my appointment?
Some birds can recognise themselves in a mirror.
The judge dismissed the case for lack of evidence.
The printer is out of toner again.
Rome was not built in a day.
The gardener planted tulips along the fence.
A light year is a measure of distance.
The refugees were housed in a school gym.
He plays the trumpet in a jazz band.
Taxes on tobacco will rise next year.
Which vegetables can be grown in the shade?
The elevator is stuck between the third and the fourth floor.
The astronaut repaired the panel during a walk in space.
Her handwriting is almost impossible to read.
The treaty ended a war that had lasted for thirty years.
The variable is declared but never used.
Snow blocked the road over the pass.
This wine goes well with fish.
The bridge was designed by a French engineer.
The nurse changed the bandage twice a day.
The dictionary lists more than two hundred thousand words.
Why do some people sneeze when they look at the sun?
The company plans to hire five hundred engineers.
A rainbow appears when sunlight meets drops of water.
The thief escaped through a window at the back.
The tortoise lived to be a hundred and fifty years old.
Save the file before you close the program.
The bride's dress was made by her aunt.
The vote was delayed by a bomb threat.
Honey never spoils if it is kept dry.
The runner stumbled at the last hurdle and came in fourth.
How do I delete a row from a table in SQL?
The philosopher held that happiness lies in doing without.
The museum is free on the first Sunday of the month.
The soup needs more pepper.
Trade between the two states came to a halt.
The bacteria in yoghurt are harmless.
The pilot asked for permission to land.
Old newspapers were piled up to the ceiling.
She studied physics in Zurich and later taught in Princeton.
The rope was too short to reach the ledge.
Our office is closed between Christmas and New Year.
The moon has no atmosphere.
The guitarist tuned his instrument by ear.
Is there a discount for students?
The chemist dissolved the powder in alcohol.
Migrants crossed the river at night.
The film won three prizes at the festival in Cannes.
The tyres should be changed before winter.
A swarm of bees settled in the chimney.
The president vetoed the law on immigration.
The graph shows how temperature depends on height.
Bring a sleeping bag and a torch.
The shepherd counted his sheep and found that one was missing.
The network was attacked by hackers who asked for a ransom.
The prime numbers below ten are two, three, five and seven.
The priest blessed the boats in the harbour.
Could you please send me the minutes of the meeting?
The earthquake destroyed the old town.
The dentist filled two cavities and polished the rest.
The economy shrank for the second quarter in a row.
Camels can go without water for two weeks.
The lamp flickers when the washing machine is running.
The archive keeps letters of the poet's wife.
Cover the pot and let it simmer for an hour.
The striker signed a contract with a club in Turkey.
What does this error message mean?
The forest burned for six days.
Her lecture compares the myths of India and Greece.
The train was so crowded that we had to stand.
Genes are made of DNA.
The landlord refuses to repair the heating.
The actor forgot his lines and made some up.
In spring the storks return to the village.
""".splitlines()
)


def texts(model: Pretrained) -> list[list[int]]:
    """Return token ids of the sentences, of texts of three of them, and of words drawn from the vocabulary."""
    chance = random.Random(0)
    order = chance.sample(TEXTS, len(TEXTS))
    joined = [" ".join(order[at : at + 3]) for at in range(0, len(order), 3)]
    words = sorted(word for word in model.tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 2)
    drawn = [" ".join(chance.sample(words, _DRAWN)) for _ in range(len(TEXTS))]
    return [model.ids(text) for text in (*TEXTS, *joined, *drawn)]
