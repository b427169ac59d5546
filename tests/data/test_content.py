"""Posts are known again by what a model reads of them, and by nothing else."""

from bifocal.data.content import Content, ContentHashes


def test_a_model_of_pictures_knows_its_posts_whatever_was_written_beside_them():
    learned = ContentHashes.of({"train": [Content("", "p1")]})
    assert learned.holds([Content("a caption", "p1"), Content("a caption", "p2")]) == [True, False]


def test_a_model_of_words_knows_short_posts_that_bring_a_picture():
    learned = ContentHashes.of({"train": [Content("kys")], "val": [Content("one more post here")]})
    rows = [Content("KYS!", "p1"), Content("another", "p1"), Content("One more post, here.", None, "r")]
    assert learned.holds(rows) == [True, False, True]


def test_a_model_of_both_parts_takes_a_known_picture_with_other_words_for_another_post():
    learned = ContentHashes.of({"train": [Content("the lantern", "p1"), Content("waits", "p2")]})
    assert learned.holds([Content("the lantern", "p1"), Content("the river", "p1")]) == [True, False]
    old = ContentHashes.model_validate(learned.model_dump(exclude={"kinds"}))  # of a bundle from before
    assert old.holds([Content("the lantern", "p1")]) == [True]
