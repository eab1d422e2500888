"""The words that corrections_pages.py puts around its tables: those of study/corrections.md, of a
section of nerp.md and of one of study/choice.md. Names in braces are filled in."""

WHEN = """\
- **Shift**, the default. It looks at no test image. It gains {shift} points, and {shift_2} at \
Zipf exponent 2, because it does not depend on the classes' shares. Its automatic strengths were \
[changed](study/corrections.md#the-strengths-that-were-changed) on other worlds. {confirmed}
- **Guarded anchored match**. It may look at the test images. It gains {guarded} if the classes \
are equally frequent. If they are not, the guard keeps the shift ({guarded_1} at exponent 1).
- **Match** assumes equal shares and does harm if the shares differ ({match_1} at exponent 1).
- **Few images.** With 20 test images in all, the guarded match changes accuracy by {guarded_20} \
points and match by {match_20}.
- **Stream.** The guarded match gains {first} in the first 50 images.

![gain against Zipf exponent, and against the number of test images](corrections.png)

Points are means over {count} models on novel classes ({where}; \
[study/corrections.md](study/corrections.md)). Lines that leave the left panel are in that page's \
tables. `python tools/making/compare_corrections.py report docs --worlds 313 314` makes the figure \
and this section.

| what is known of the test images | correction | points gained | has looked at |
|:--|:--|:--|:--|
| nothing; they are not looked at | the shift, `NERP.RULE auto` | {shift}; {shift_2} at exponent \
2 | training labels |
| nothing; they may be looked at | guarded anchored match, `NERP.MAY_SEE test` | {guarded}; \
{guarded_1} at exponent 1, {guarded_2} at 2 | test images † |
| nothing; they come one after the other | the same in a stream, `NERP.STREAM True` | {orders} \
over five orders; {first} in the first 50 | test images already seen s |
| all are there, the classes equally frequent | `NERP.RULE match` | {match}; {match_1} at \
exponent 1, where that is wrong | test images † |
| the classes' shares | `NERP.RULE match NERP.SHARES FILE` | {known_1} at exponent 1, {known_2} \
at 2, with the true shares ‡ | test images and the file § |
"""
REPORT = """\
# NeRP's rules beside their peers

Made by `python tools/making/compare_corrections.py report` from what its `measure corrections` \
finds on {count} models that `choose_shift.py collect` kept: {where}; {methods}; seed 1, 16 shots, \
novel classes. No constant was chosen on these worlds ([choice.md](choice.md)). Nothing here is \
evidence about CLIP: the images are drawn and the backbones are tiny.

Numbers are mean changes of accuracy in points. † marks corrections that use the test images, s \
those that use test images already seen, ‡ those that use test labels. All others use at most \
training data.

## All test images, classes equally frequent

{balanced}

The shift and the guarded anchored match by world:

{worlds}

Contextual calibration is the shift at strength 1. If the shares are given and fixed, Sinkhorn's \
scaling with γ = 1 corrects nothing, so the table has γ = 0 only. The labelled bias (GLA) needs \
training images of the tested classes. Novel classes have none, so it is not in the table.

## Classes by Zipf's law

At an exponent, the class at rank r has 1 / r^exponent of its images. Each class takes each rank \
once, over as many test sets. So a bias that does not depend on the test images gains about the \
same at each exponent. “Shares known” is match to the shares of the test labels.

{exponents}

## Few test images

The numbers are means over five draws. A stream's numbers are those of its first images.

{sizes}

## Streams

Each image is corrected by the images before it. Mean ± standard deviation over five orders.

{streams}

## The alarm

Match finds the bias that the test images ask for if the classes are equally frequent. The table \
shows its distance from the shift's bias, in logits. The last column says how often the guarded \
anchored match concludes that the classes are not equally frequent:

{alarm}

## The strengths that were changed

Each row is compared with the earlier strengths, in the first row. A change was to be adopted if \
it gains at least 0.3 points, gains at least twice its standard error, and makes no more models \
worse by more than half a point. The last row is in use. It passes on the worlds of \
[choice.md](choice.md), where it is the best of those tried. {confirmed} The models of a \
benchmark share its images, so the standard error over models is too small.

{strengths}

## Also tried

These corrections change more than the preference for classes, and they need features. They were \
measured on {others} of the models, with all test images and classes equally frequent. None of \
them is a rule here. InMaP assumes equal shares, as match does. Settings are those that the papers \
give for ImageNet or by default. Images come in a random order. `tools/making/not_taken.py` holds \
the corrections, and a test compares them with their releases.

{untaken}
"""
CHOICE = """\
Made by `python tools/making/compare_corrections.py choice` from what its `measure constants` \
finds on {count} models: {where}; {methods}; seed 1, 16 shots, novel classes. No other page \
reports these models.

The first table compares the shift's automatic strengths with the earlier ones. “matched” is the \
bias of `match` on the training images of other classes.

{strengths}

The anchored match's width and limit are multiples of one unit: the standard deviation of an \
image's logits over the classes, averaged over the training images of other classes. The width is \
{width:g} of it. The next table shows what the anchored match gains without a guard, by the number \
of test images:

{widths}

The limit is {limit:g} of the unit. The next table shows what the guarded anchored match gains, \
and in brackets how often it keeps the shift, by how unequally frequent the test classes are:

{limits}

Another unit was planned: the spread of the labelled biases around the gap's prediction, between \
halves of the trained classes. How far a model's own labelled bias lies from the shift's ({off} \
logits, root mean square over classes, median over models) has rank correlation {between_halves} \
with that unit, and {spread} with the standard deviation of an image's logits ({least} to {most} \
logits). The latter is the unit, because changing the scale of the logits changes it alike.
"""
