"""What is a mean, a difference or an agreement worth?

In: arrays.
Out: numbers with intervals; nothing of this project is imported.
Notebook: none by itself: wings above compute with it.
"""
