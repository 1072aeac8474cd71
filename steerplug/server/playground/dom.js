// Two words for finding and making what the page shows.

/** The first element within another that a selector finds. */
export const $ = (selector, within = document) => within.querySelector(selector);

/** A new element from the template of that id. */
export const stamp = (id) => $(`template#${id}`).content.firstElementChild.cloneNode(true);
