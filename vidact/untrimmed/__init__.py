"""Events of untrimmed videos, from pixels: finding them, and what is made of them."""
